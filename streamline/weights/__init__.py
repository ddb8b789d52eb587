"""Where weights are: on the device, in host memory or in mapped files, and how they come and go."""

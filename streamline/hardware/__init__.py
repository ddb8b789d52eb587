"""What a device is, what of it is free, what it does in a second, and how much of it a run may take."""

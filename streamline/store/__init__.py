"""Files of models on this machine: where they are, whether they are whole, and which model they hold."""

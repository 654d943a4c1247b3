"""What is acknowledged survives: services and processes are killed under load."""

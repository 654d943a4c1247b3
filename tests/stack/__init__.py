"""The command line and the local stack, with real processes."""

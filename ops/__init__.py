"""Running Relais: the command line, the local stack, the demo and the benches."""

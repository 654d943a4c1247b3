"""The laboratory: benchmarks and chaos. It stays out of the image."""

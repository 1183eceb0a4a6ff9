"""Training runs on real data, from the command line: `python -m benchmarks --help`."""

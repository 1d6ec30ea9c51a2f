"""What produced each published number; `python -m benchmarks.NAME --help`."""

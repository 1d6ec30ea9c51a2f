"""The same networks behind other servers: `python -m benchmarks.peers --help`."""

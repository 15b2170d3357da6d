"""What needs more than one part: integration, end to end, chaos, benchmarks."""

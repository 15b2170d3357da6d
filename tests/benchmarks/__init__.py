"""Measurements of the numbers in the design, each a command: python -m tests.benchmarks.NAME."""

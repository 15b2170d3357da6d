"""Measurements of the numbers in the design, each a command: `.venv/bin/python -m tests.benchmarks.NAME`."""

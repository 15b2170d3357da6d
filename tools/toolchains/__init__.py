"""Compilers and package managers of other languages, from the Python package index where the machine has none."""

"""Faults against a whole deployment, watched from outside: `python -m tests.chaos`."""

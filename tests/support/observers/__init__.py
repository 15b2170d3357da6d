"""Observers that fail a test when an invariant is violated."""

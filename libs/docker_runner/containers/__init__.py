"""The lifecycle of a container: start, stop, the reason of its end, and its files."""

"""The frame of every process: command line, lifecycle, and isolation of its loops from unexpected errors."""

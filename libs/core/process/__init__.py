"""What every process has: its command line, its life from start to end, and its loops' isolation from errors."""

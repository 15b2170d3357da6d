"""Settings: their names, bounds and sources."""

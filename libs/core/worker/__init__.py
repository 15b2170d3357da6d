"""The side that owns: one stream to the master, one segment under a lease, one handler that does the work."""

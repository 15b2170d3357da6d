"""The worker: one stream to the master, owned segments under leases, and one handler that does the work."""

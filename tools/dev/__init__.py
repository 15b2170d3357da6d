"""A stack on one machine: the embedded servers and the services as separate processes."""

"""Events in and out over NATS."""

"""Real servers on this machine, from wheels: MongoDB, NATS with JetStream, and an S3 gateway."""

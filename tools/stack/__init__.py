"""Real servers on this machine, out of wheels: MongoDB, NATS with JetStream, and an S3 gateway."""

"""What is kept in MongoDB, one module a collection; the driver is imported only in this folder."""

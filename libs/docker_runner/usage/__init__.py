"""Resource usage of containers: samples and totals."""

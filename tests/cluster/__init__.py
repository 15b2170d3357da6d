"""A Kubernetes cluster of two nodes on this machine, for the tests."""

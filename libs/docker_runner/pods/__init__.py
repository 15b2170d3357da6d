"""Bots as pods of a Kubernetes cluster: the second implementation of the engine."""

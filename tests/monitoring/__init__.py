"""Dashboards and alerts, held against a real Prometheus that reads real processes."""

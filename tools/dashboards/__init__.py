"""Makes the Grafana dashboards in deploy/grafana out of what the runtime measures."""

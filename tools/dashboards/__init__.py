"""Generate the Grafana dashboards in deploy/grafana from the runtime's metrics."""

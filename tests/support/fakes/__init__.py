"""Stand-ins for what cannot run here, each of which says so."""

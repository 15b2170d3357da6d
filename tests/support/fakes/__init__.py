"""Stand-ins for systems that cannot run here."""

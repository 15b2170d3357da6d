"""Real servers for tests, each started once and reached by fixtures."""

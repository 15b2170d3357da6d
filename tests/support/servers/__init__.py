"""Real servers for tests, each started once and provided by fixtures."""

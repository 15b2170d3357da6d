"""Parts of the system wired together for tests."""

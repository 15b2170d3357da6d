"""Work on a bot's folder before its deploy: start it, check it, run it."""

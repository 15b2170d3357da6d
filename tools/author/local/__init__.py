"""Run a bot's folder in the foreground, in its image and its sandbox, without servers."""

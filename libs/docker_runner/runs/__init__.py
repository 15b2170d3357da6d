"""From an executable to the recorded result of its run: start at most once, watch, stop, record, remove."""

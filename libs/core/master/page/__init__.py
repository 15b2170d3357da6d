"""The status page of a master: what an operator looks at first, in a browser."""

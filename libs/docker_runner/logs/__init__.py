"""The output of bots: followed, spooled on this host, uploaded, and read."""

"""What bots print: followed, kept on this host, uploaded, and read again."""

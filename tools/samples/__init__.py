"""Two bots to copy: each is a folder with a `bot.json` and its code."""

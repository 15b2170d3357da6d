"""The side that decides: which worker owns which segment, and how many segments wait."""

"""The master: decides which worker owns which segment, and reports the segments that wait."""

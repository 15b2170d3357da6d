"""The proof of owning a segment, and the loop that renews it."""

"""The files that results lie in: written, merged, read."""

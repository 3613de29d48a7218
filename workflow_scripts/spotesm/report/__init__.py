"""One HTML page on a dataset."""

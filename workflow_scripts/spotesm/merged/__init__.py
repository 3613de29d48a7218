"""The file of a dataset: merged, read, looked up, checked."""

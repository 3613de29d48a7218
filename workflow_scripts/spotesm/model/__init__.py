"""Batches of sequences in, values out."""

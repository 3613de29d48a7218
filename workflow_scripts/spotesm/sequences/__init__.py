"""From FASTA to shards: reading, normalising, translating, splitting, windows, tokens."""

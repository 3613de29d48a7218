"""What a shard's folder holds: parts of finished sequences, and the file of all of them."""

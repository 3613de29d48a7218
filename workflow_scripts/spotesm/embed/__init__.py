"""The work on one shard."""

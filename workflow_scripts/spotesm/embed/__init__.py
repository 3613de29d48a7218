"""The work on one shard, and its durable state."""

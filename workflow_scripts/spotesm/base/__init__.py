"""What knows nothing of proteins, models or runs: durable files, failures, the journal."""

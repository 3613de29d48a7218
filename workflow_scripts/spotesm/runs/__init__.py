"""What runs leave behind: attempts, errors."""

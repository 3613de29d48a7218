"""What runs cost, and what they leave behind: attempts, errors."""

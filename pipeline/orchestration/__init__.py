"""Which stage runs when, what it left behind, and who is told."""

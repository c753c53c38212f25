"""Several students of one architecture that take each step at once."""

"""What sets, generators and methods are worth, as functions."""

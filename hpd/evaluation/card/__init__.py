"""What students are worth where images are not as in the set: spoilt, attacked, larger."""

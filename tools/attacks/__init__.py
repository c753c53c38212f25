"""Attacks on hpd's boundaries: inputs that are damaged at random, and runs that are killed."""

"""Architectures of generators, cut into levels."""

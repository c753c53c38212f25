"""Hierarchical memories as the source."""

"""Architectures of students, one file each."""

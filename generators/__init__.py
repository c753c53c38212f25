"""Generators: pretrained networks cut into an ordered list of levels."""


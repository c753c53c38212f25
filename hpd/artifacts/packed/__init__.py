"""Runs that are handed on: what goes along, in one file, with a card."""

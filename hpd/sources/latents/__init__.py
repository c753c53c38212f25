"""Latents of a generator as what is stored."""

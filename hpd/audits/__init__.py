"""Distilled sets of others: read as data, understood by training images, judged like runs."""

"""Training a generator on a data set: the run and its folder, the curve, the card at the end."""

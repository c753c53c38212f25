"""From what stands in a checkpoint to the settings and weights of a family."""

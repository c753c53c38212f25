"""Networks that were trained on the real set, step by step, for trajectory matching."""

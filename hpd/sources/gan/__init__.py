"""The levels of a pretrained generator as the source: H-PD, and GLaD as one of them."""

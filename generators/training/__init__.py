"""Training a class-conditional StyleGAN2."""

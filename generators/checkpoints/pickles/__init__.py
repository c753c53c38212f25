"""What stands in checkpoint files, read without running anything of it."""

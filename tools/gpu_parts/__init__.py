"""The parts of `gpu_check.py`: what each measures, what runs it, and what is kept of it."""

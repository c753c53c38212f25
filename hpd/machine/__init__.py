"""What a run computes with: devices, processes and their memory. Alone knows Accelerate."""

"""Kernels of CUDA: what they are told, how they are compiled and started."""

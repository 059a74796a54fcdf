"""The decoder's layers on an NVIDIA GPU: a few kernels of our own, and steps of rows as CUDA graphs."""

"""Triton kernels for parts of Gemma 3 that transformers runs as many small kernels."""

"""Triton kernels for parts of Gemma 3 that transformers runs in many small launches."""

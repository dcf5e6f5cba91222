"""Sparse autoencoders of the residual stream: finding, reading and applying them."""

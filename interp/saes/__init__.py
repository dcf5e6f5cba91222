"""Sparse autoencoders of the residual stream: finding, reading, applying and checking them."""

"""Causal tests: the final token's residual, or single features of it, patched from one wording into another."""

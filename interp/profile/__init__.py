"""The layer profile, the ranges that rules take from it, and the verdict."""

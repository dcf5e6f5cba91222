"""Imports published data sets as questions in our format. Each data set has its own module, listed in `formats`."""

"""The commands of `interp`: argument parsing only, every one is one call into the library."""

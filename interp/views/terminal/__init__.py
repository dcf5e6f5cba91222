"""Artifacts printed on the terminal, a file a command."""

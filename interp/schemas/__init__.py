"""The artifacts, a pydantic schema a file; writers and readers share it."""

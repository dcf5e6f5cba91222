"""Files on disk: written whole or not at all, checksummed, locked, resumed, and where they came from."""

"""Files on disk: atomic writing, checksums, locks, checkpoints of interrupted runs, and provenance."""

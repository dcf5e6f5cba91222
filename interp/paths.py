"""Paths of the files that GateScope ships."""

from pathlib import Path

WORLD = Path(__file__).parent / "demo" / "world"
"""The embedded world: `planted/`, `base/`, `saes/`, `questions.jsonl`, `images/`, `world.json`."""
EMBEDDED = "the embedded world"
"""How help texts name the embedded world where it is the default."""

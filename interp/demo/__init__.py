"""The embedded world: synthetic radiographs, a model with a gate planted at known layers, its SAEs, their recipe."""

from pathlib import Path

WORLD = Path(__file__).parent / "world"
"""The shipped world: `planted/`, `base/`, `saes/`, `questions.jsonl`, `images/`, `world.json`."""
EMBEDDED = "the embedded world"
"""How help texts name it where it is the default."""

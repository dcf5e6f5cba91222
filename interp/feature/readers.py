"""The tools for which activations of features are exported (`interp.feature.export`)."""

from typing import Literal

Reader = Literal["sae-dashboard", "delphi"]
"""The tool that is to read the activations."""

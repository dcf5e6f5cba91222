"""The figures, each a function from a data frame, the content of its CSV file, or from layers.json to a figure.

`search` and `redraw` gather those of a search in memory and of a folder on disk; `interp.figure_style` is how they
look and are written.
"""

from interp.figures.margin import delta_against_margin
from interp.figures.profile import layer_profile
from interp.figures.register import activation_by_register

__all__ = ["activation_by_register", "delta_against_margin", "layer_profile"]

"""The figures, each a function from a data frame, the content of its CSV file, or from layers.json to a figure.

`search` and `redraw` gather those of a search in memory and of a folder on disk; `interp.views.figures.style` is how
they
look and are written.
"""

from interp.views.figures.margin import delta_against_margin
from interp.views.figures.profile import layer_profile
from interp.views.figures.register import activation_by_register

__all__ = ["activation_by_register", "delta_against_margin", "layer_profile"]

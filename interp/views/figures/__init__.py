"""The figures, one file for each kind.

A figure is a function of a data frame, which is also written as its CSV file. `redraw` draws all figures of a folder
again, and `style` holds how figures look and are saved.
"""

from interp.views.figures.margin import delta_against_margin
from interp.views.figures.profile import layer_profile
from interp.views.figures.register import activation_by_register

__all__ = ["activation_by_register", "delta_against_margin", "layer_profile"]

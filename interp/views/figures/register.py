"""A feature's activation on formal and on casual wordings."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.views.figures.style import ACCENT, INK, SCREEN, Size, panel, rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REGISTERS: dict[str, dict[str, Any]] = {"formal": {"color": ACCENT}, "casual": {"color": INK, "ls": "--"}}
"""Register -> how its distribution is drawn."""


def register_frame(layer: int, feature: int, activation: Any, register: Any) -> pd.DataFrame:
    """One row for each tagged wording: layer, feature, register (formal or casual), activation at the final token.

    `activation` and `register` [wordings] are of all wordings. Numbers have six significant digits and rows are sorted
    by activation, so that no row can be traced to its wording.
    """
    table = {"layer": layer, "feature": feature, "register": register, "activation": activation}
    tagged = pd.DataFrame(table).query(f"register in {list(REGISTERS)}")
    return rounded(tagged).sort_values(["register", "activation"], ignore_index=True)


def activation_by_register(frame: pd.DataFrame, ax: "Axes | None" = None, size: Size = SCREEN) -> "Figure":
    """The figure of a `register_frame`: the distribution of the activation in each register."""
    bins = np.linspace(0, max(1e-6, float(frame["activation"].max())), 40)
    height = 2.0 if size.columns == 2 else 0.35 * size.width
    named = f"Layer {frame['layer'].iloc[0]}, feature {frame['feature'].iloc[0]}"
    with panel(ax, size, height, f"{named}: activation by register") as axes:
        for name, style in REGISTERS.items():
            values = frame.loc[frame["register"] == name, "activation"]
            weights = np.full(len(values), 1 / max(1, len(values)))
            label = f"{name} (n = {len(values)})"
            axes.hist(values, bins, weights=weights, histtype="step", lw=1.4, label=label, **style)
        axes.set_xlabel("activation at the final token")
        axes.set_ylabel("share of wordings")
    return axes.figure

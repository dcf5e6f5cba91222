"""A feature's activation on formal and on casual wordings."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.views.figures.style import QUANTITIES, SCREEN, Size, panel, rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REGISTERS: dict[str, dict[str, Any]] = {"formal": {"ls": "-"}, "casual": {"ls": "--"}}
"""Register -> how its curve is drawn."""


def register_frame(layer: int, feature: int, activation: Any, register: Any) -> pd.DataFrame:
    """One row for each tagged wording: layer, feature, register (formal or casual), activation at the final token.

    `activation` and `register` [wordings] are of all wordings. Numbers have six significant digits and rows are sorted
    by activation, so that no row can be traced to its wording.
    """
    table = {"layer": layer, "feature": feature, "register": register, "activation": activation}
    tagged = pd.DataFrame(table).query(f"register in {list(REGISTERS)}")
    return rounded(tagged).sort_values(["register", "activation"], ignore_index=True)


def activation_by_register(frame: pd.DataFrame, ax: "Axes | None" = None, size: Size = SCREEN) -> "Figure":
    """The figure of a `register_frame`: the share of each register's wordings above every activation.

    A curve begins at the share of wordings on which the feature is active at all, so that the many zeros are one number
    and not a column that dwarfs the rest.
    """
    height = 2.0 if size.columns == 2 else 0.35 * size.width
    named = f"Layer {frame['layer'].iloc[0]}, feature {frame['feature'].iloc[0]}"
    with panel(ax, size, height, f"{named}: activation by register") as axes:
        for name, style in REGISTERS.items():
            values = np.sort(frame.loc[frame["register"] == name, "activation"].to_numpy(float))
            at, share = shares_above(values)
            label = f"{name} (n = {len(values):,})"
            axes.step(at, share, where="post", color=QUANTITIES[name], lw=1.4, label=label, **style)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("activation at the final token")
        axes.set_ylabel("share of wordings\nwith a higher one")
    return axes.figure


def shares_above(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of a step curve from sorted values [n]: activations, beginning with 0, and the share above each."""
    at = np.unique(np.concatenate([[0.0], values]))
    return at, 1 - np.searchsorted(values, at, side="right") / max(1, len(values))

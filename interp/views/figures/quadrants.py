"""The four quadrants of every arm: consistent or not, relying on the image or not."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.views.figures.style import (
    SCREEN,
    SERIES,
    Drawing,
    Size,
    add_legend,
    dodged,
    intervals,
    lines_of,
    name_rows,
    new_figure,
    set_title,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RELIANCE = {"grey": "by the grey image", "any": "by any blank or swapped image"}
"""What decides whether an answer relies on the image -> how it is called."""

GOOD = "ideal"
"""The quadrant of which more is better; of the others less is."""


def quadrant_drawing(content: Mapping[str, Any], name: str, title: str, arms: Mapping[str, Sequence[str]]) -> Drawing:
    """The figure of the quadrants in evaluation.json; `arms` maps what is shown to the arms that it is the mean of."""
    frame = quadrants_frame(content, arms)
    return Drawing(name, frame, lambda size: quadrants(frame, title, size))


def quadrants_frame(content: Mapping[str, Any], arms: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row for each arm, kind of reliance and quadrant: arm, reliance, quadrant; value, low, high of its share.

    A pool of several arms has their mean without an interval.
    """
    rows = []
    for arm, members in arms.items():
        for reliance in RELIANCE:
            found = [q for q in content["quadrants"] if q["arm"] in members and q["reliance"] == reliance]
            for quadrant in content["quadrant_order"] if found else ():
                shares = [q["shares"][quadrant] for q in found]
                one = shares[0] if len(shares) == 1 else {"value": sum(s["value"] for s in shares) / len(shares)}
                rows.append({"arm": arm, "reliance": reliance, "quadrant": quadrant} | one)
    columns = ["arm", "reliance", "quadrant", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:], float))


def quadrants(frame: pd.DataFrame, title: str = "", size: Size = SCREEN) -> "Figure":
    """The figure of a `quadrants_frame`: a panel for each kind of reliance, a row for each quadrant."""
    arms = list(dict.fromkeys(frame["arm"]))
    names = list(dict.fromkeys(frame["quadrant"]))
    with styled(size):
        height = 0.8 + len(names) * max(1.6, 0.9 * len(arms)) * size.row
        figure, axes = new_figure(size, height, columns=len(RELIANCE), sharex=True, sharey=True)
        for ax, (reliance, called) in zip(axes, RELIANCE.items(), strict=True):
            called_rows = [f"{name} {'↑' if name == GOOD else '↓'}" for name in names]
            at = dict(zip(names, name_rows(ax, called_rows, 20), strict=True))
            for arm, shift, style in zip(arms, dodged(len(arms)), SERIES * len(arms), strict=False):
                mine = frame[(frame["arm"] == arm) & (frame["reliance"] == reliance)]
                places = [at[name] + shift for name in mine["quadrant"]]
                shares = mine.assign(**{end: 100 * mine[end] for end in ("value", "low", "high")})
                intervals(ax, places, shares, across=True, ls="none", label=arm, **style)
            ax.set_xlim(-3, 103)
            ax.set_xticks([0, 25, 50, 75, 100])
            ax.set_title(lines_of(called, size))
            ax.set_xlabel("questions [%]")
        set_title(figure, f"{title}{'; ' if title else ''}arrow: better", size)
        add_legend(axes, size, below=True)
    return figure

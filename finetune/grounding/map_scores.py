"""Scores of a map: does it lie on the lesion, and do the cells that it marks carry the answer?

A map is one number for each of T cells of a grid, [T], row-major, positive for what speaks for the model's answer.
What a map marks is its positive part: negative values count as zero for mass, strongest cells and pointing. Orders and
rank agreement use the values as they are. Cells of equal value share what falls to them, so that a map that says
nothing, uniform or nowhere positive, scores what chance gives.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.images import boxes as regions

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TOP = 0.2
"""Share of the cells that a map is said to select."""


class Region(NamedTuple):
    """Where a lesion lies, or several places [..., T] of a control."""

    cover: Floats
    """[..., T] share of each cell inside."""
    centres: Bools
    """[..., T] whether the centre of each cell lies inside."""


def region_of(boxes: Floats, side: int) -> Region:
    """The region of boxes [n, 4], or the regions of k times n boxes [k, n, 4], in shares of the image."""
    if boxes.ndim == 2:
        return Region(regions.covered(boxes, side).ravel(), regions.centres_in(boxes, side).ravel())
    parts = [region_of(place, side) for place in boxes]
    return Region(np.stack([part.cover for part in parts]), np.stack([part.centres for part in parts]))


def shifted_region(region: Region, side: int) -> Region:
    """The region moved by half of the image's width, around its edge."""
    cover, centres = (regions.shifted(part.reshape(side, side)).ravel() for part in region)
    return Region(cover, centres)


def box_scores(values: Floats, region: Region, top: float = TOP) -> Mapping[str, Floats]:
    """How a map [T] lies on a region, name -> [...], each in [0, 1].

    mass: share of the map's sum inside. coverage: share of the region that the strongest cells cover (`top` of all).
    precision: share of the strongest cells' area inside. pointing: whether the strongest cell's centre lies inside
    (pointing game, Zhang et al., arXiv 1608.00507).
    """
    marked = values.clip(0)
    weight = marked if marked.sum() > 0 else np.ones(len(values))
    chosen, best = (strongest(marked, count) for count in (max(1, round(top * len(values))), 1))
    inside = region.cover @ chosen
    return {
        "mass": region.cover @ weight / weight.sum(),
        "coverage": inside / region.cover.sum(-1),
        "precision": inside / chosen.sum(),
        "pointing": region.centres @ best,
    }


def strongest(values: Floats, count: int) -> Floats:
    """How much of each cell is among the `count` largest: [T], adding up to `count`; ties at the edge share evenly."""
    least = np.sort(values)[-count]
    above, tied = values > least, values == least
    return above + tied * (count - above.sum()) / tied.sum()


def rank_agreement(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation of two maps [T]; NaN where one of them is uniform."""
    from scipy.stats import rankdata

    x, y = (rankdata(values) - (len(values) + 1) / 2 for values in (a, b))
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")


def order_of(values: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
    """The cells from the largest value to the least, ties in random order: [T]."""
    return np.lexsort((rng.random(len(values)), -values))


def removals(order: NDArray[np.intp], steps: int) -> Bools:
    """The cells removed after 0, 1, ... steps, none at first and all at last: [min(steps, T) + 1, T]."""
    counts = np.rint(np.linspace(0, len(order), min(steps, len(order)) + 1))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    return rank < counts[:, None]


def area(curve: Floats) -> Floats:
    """Area under curves [..., steps + 1] over the share of cells from 0 to 1 (trapezoids)."""
    return (curve[..., 1:] + curve[..., :-1]).mean(-1) / 2

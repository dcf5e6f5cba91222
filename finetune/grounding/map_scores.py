"""Scores of one saliency map: whether it lies on the lesion, and whether the cells that it marks matter.

A map is one number for each of the T cells of a grid, [T] in row-major order, positive where the image supports the
model's answer. Mass, strongest cells and pointing use its positive part alone; orders and rank agreement use the whole
map. Cells of equal value share their credit equally, so an uninformative map (uniform, or nowhere positive) scores what
chance gives.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.images import boxes as regions

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Region(NamedTuple):
    """A lesion on the grid, or several control places for it, [..., T]."""

    cover: Floats
    """[..., T] share of each cell's area inside the boxes."""
    centres: Bools
    """[..., T] whether the centre of each cell lies inside a box."""


def region_of(boxes: Floats, side: int) -> Region:
    """Return the region of boxes [n, 4] in shares of the image, or of k places of such boxes [k, n, 4]."""
    if boxes.ndim == 2:
        return Region(regions.covered(boxes, side).ravel(), regions.centres_in(boxes, side).ravel())
    parts = [region_of(place, side) for place in boxes]
    return Region(np.stack([part.cover for part in parts]), np.stack([part.centres for part in parts]))


def shifted_region(region: Region, side: int) -> Region:
    """Return the region moved by half the image's width, wrapping around its edge."""
    cover, centres = (regions.shifted(part.reshape(side, side)).ravel() for part in region)
    return Region(cover, centres)


def box_scores(values: Floats, region: Region, top: float) -> Mapping[str, Floats]:
    """Score how a map [T] lies on a region: name -> [...], each in [0, 1].

    `mass` is the share of the map's sum inside the region. `coverage` is the share of the region covered by the
    strongest cells, a share `top` of all. `precision` is the share of the strongest cells' area inside. `pointing` is
    whether the centre of the strongest cell lies inside (pointing game, Zhang et al., arXiv 1608.00507).
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
    """Return how much of each cell is among the `count` largest [T]; ties for the last places share them equally."""
    least = np.sort(values)[-count]
    above, tied = values > least, values == least
    return above + tied * (count - above.sum()) / tied.sum()


def order_of(values: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the cells [T] from the largest value to the smallest, with ties in random order."""
    return np.lexsort((rng.random(len(values)), -values))


def removals(order: NDArray[np.intp], steps: int) -> Bools:
    """Return which cells are removed after 0, 1, ... steps [min(steps, T) + 1, T]: none at first, all at the end."""
    counts = np.rint(np.linspace(0, len(order), min(steps, len(order)) + 1))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    return rank < counts[:, None]


def area(curve: Floats) -> Floats:
    """Return the area under curves [..., steps + 1] over the share of cells from 0 to 1, by the trapezoidal rule."""
    return (curve[..., 1:] + curve[..., :-1]).mean(-1) / 2

"""Boxes in an image's pixels, as shares of the cells of a grid, as masks, and elsewhere in the image as controls.

The processor stretches every image to a square, so a box is stretched with it: x by the width, y by the height of the
file's image. Grids are row-major, as the image tokens are.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interp.runtime.errors import InputError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Box = Sequence[float]

TRIES = 2000
"""Places that are tried for a region away from the boxes."""


def unit_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Floats:
    """Boxes x0 y0 x1 y1 in pixels of an image of `size` (width, height), as shares of it, cut off at its edges: [n, 4].

    Raises InputError for a box that has no area inside the image.
    """
    width, height = size
    shares = np.asarray(boxes, float).reshape(-1, 4) / np.array([width, height, width, height])
    shares = shares.clip(0, 1)
    for box, share in zip(boxes, shares, strict=True):
        if share[0] >= share[2] or share[1] >= share[3]:
            raise InputError(
                f"box {[round(float(v), 1) for v in box]}: has no area inside its image of {width} x {height} pixels. "
                "Boxes are x0 y0 x1 y1 in pixels of the image file, x0 < x1 and y0 < y1."
            )
    return shares


def grid_side(tokens: int) -> int:
    """Cells a side of the grid that a number of image tokens makes. Raises InputError if it is no square."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise InputError(f"The model makes {tokens} tokens of an image, which is no square grid, so none has a place.")
    return side


def covered(boxes: Floats, side: int) -> Floats:
    """Share of every cell of a grid that lies in any of the `boxes` [n, 4] (shares of the image): [side, side]."""
    lines = np.arange(side + 1) / side
    xs, ys = (np.unique(np.concatenate([lines, boxes[:, k], boxes[:, k + 2]])) for k in (0, 1))
    x, y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2
    area = np.outer(np.diff(ys), np.diff(xs)) * _any_holds(boxes, y, x)
    # Between neighbouring lines nothing changes, so every piece lies in one cell, and in a box whole or not at all.
    rows, columns = (np.arange(side)[:, None] == np.floor(v * side)[None] for v in (y, x))
    return (rows @ area @ columns.T) * side * side


def centres_in(boxes: Floats, side: int) -> Bools:
    """Whether the centre of every cell of a grid (or pixel of an image) lies in any of the `boxes`: [side, side]."""
    middle = (np.arange(side) + 0.5) / side
    return _any_holds(boxes, middle, middle)


def shifted(grid: NDArray) -> NDArray:
    """A grid [..., side, side] moved by half of its width, what leaves on the right entering on the left."""
    return np.roll(grid, grid.shape[-1] // 2, axis=-1)


def moved(boxes: Floats, count: int, rng: np.random.Generator) -> Floats:
    """The `boxes` [n, 4] together at `count` random places that keep them whole in the image: [count, n, 4]."""
    low, high = -boxes[:, :2].min(0), 1 - boxes[:, 2:].max(0)
    steps = rng.uniform(low, high, (count, 2))
    return boxes[None] + np.tile(steps, 2)[:, None]


def moved_away(boxes: Floats, count: int, rng: np.random.Generator, most: float = 0.1) -> Floats:
    """As `moved`, but only places at which at most a share `most` of the area lies in the boxes as they were.

    Where such places are rare or do not exist, there are fewer than `count` or none: [0 to count, n, 4].
    """
    places = moved(boxes, TRIES, rng)
    low = np.maximum(places[:, :, None, :2], boxes[None, None, :, :2])
    high = np.minimum(places[:, :, None, 2:], boxes[None, None, :, 2:])
    # Of overlapping boxes this counts some area twice, and so lets through a little less.
    shared = (high - low).clip(0).prod(-1).sum((1, 2))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1).sum()
    return places[shared <= most * area][:count]


def _any_holds(boxes: Floats, y: Floats, x: Floats) -> Bools:
    """Whether any box holds the point (x[j], y[i]): [len(y), len(x)]."""
    across = (boxes[:, 0, None] <= x) & (x < boxes[:, 2, None])
    down = (boxes[:, 1, None] <= y) & (y < boxes[:, 3, None])
    return np.asarray((down[:, :, None] & across[:, None, :]).any(0))

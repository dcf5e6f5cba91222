"""Lesion boxes: as shares of the image, as grids of image tokens, and moved elsewhere in the image as controls.

Boxes are given in pixels of the image as displayed: for a file with an EXIF orientation, after its rotation. The
processor stretches every image to a square, and its boxes with it, so x is divided by the width and y by the height of
the displayed image. Grids are row-major like the image tokens.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interp.runtime.errors import InputError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Box = Sequence[float]

PLACES_TRIED = 2000
"""Random places that are drawn to find some away from the boxes."""


def unit_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Floats:
    """Boxes x0 y0 x1 y1, in pixels of an image of `size` (width, height), as shares of the image: [n, 4] in [0, 1].

    Boxes are clipped to the image. Raises InputError for a box without area inside it.
    """
    width, height = size
    shares = np.asarray(boxes, float).reshape(-1, 4) / np.array([width, height, width, height])
    shares = shares.clip(0, 1)
    for box, share in zip(boxes, shares, strict=True):
        if share[0] >= share[2] or share[1] >= share[3]:
            raise InputError(
                f"box {[round(float(v), 1) for v in box]}: has no area inside its image of {width} x {height} pixels. "
                "Boxes are x0 y0 x1 y1 in pixels of the image as displayed (after its EXIF orientation), x0 < x1 and "
                "y0 < y1."
            )
    return shares


def grid_side(tokens: int) -> int:
    """Side length [cells] of the square grid of `tokens` image tokens. Raises InputError if they form no square."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise InputError(
            f"The model makes {tokens} tokens per image. They form no square grid, so a token has no place in it."
        )
    return side


def covered(boxes: Floats, side: int) -> Floats:
    """Share of the area of each grid cell that any of the `boxes` [n, 4] (shares of the image) covers: [side, side]."""
    lines = np.arange(side + 1) / side
    xs, ys = (np.unique(np.concatenate([lines, boxes[:, k], boxes[:, k + 2]])) for k in (0, 1))
    x, y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2
    area = np.outer(np.diff(ys), np.diff(xs)) * _any_holds(boxes, y, x)
    # The lines cut the image into pieces that each lie in one cell, and either inside a box or outside it.
    rows, columns = (np.arange(side)[:, None] == np.floor(v * side)[None] for v in (y, x))
    return (rows @ area @ columns.T) * side * side


def centres_in(boxes: Floats, side: int) -> Bools:
    """Whether the centre of each grid cell (or pixel) lies in any of the `boxes` [n, 4]: [side, side]."""
    middle = (np.arange(side) + 0.5) / side
    return _any_holds(boxes, middle, middle)


def shifted(grid: NDArray) -> NDArray:
    """A grid [..., side, side] shifted by half its width, wrapping around from right to left."""
    return np.roll(grid, grid.shape[-1] // 2, axis=-1)


def moved(boxes: Floats, count: int, rng: np.random.Generator) -> Floats:
    """The `boxes` [n, 4] shifted together to `count` random places inside the image: [count, n, 4]."""
    low, high = -boxes[:, :2].min(0), 1 - boxes[:, 2:].max(0)
    steps = rng.uniform(low, high, (count, 2))
    return boxes[None] + np.tile(steps, 2)[:, None]


def moved_away(boxes: Floats, count: int, rng: np.random.Generator, most: float = 0.1) -> Floats:
    """As `moved`, but only to places where at most the share `most` of the area overlaps the original boxes.

    If such places are rare or do not exist, fewer than `count` are returned, or none: [0 to count, n, 4].
    """
    places = moved(boxes, PLACES_TRIED, rng)
    low = np.maximum(places[:, :, None, :2], boxes[None, None, :, :2])
    high = np.minimum(places[:, :, None, 2:], boxes[None, None, :, 2:])
    # Where the original boxes overlap, this counts the area twice and so rejects slightly more places.
    shared = (high - low).clip(0).prod(-1).sum((1, 2))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1).sum()
    return places[shared <= most * area][:count]


def _any_holds(boxes: Floats, y: Floats, x: Floats) -> Bools:
    """Whether any box holds the point (x[j], y[i]): [len(y), len(x)]."""
    across = (boxes[:, 0, None] <= x) & (x < boxes[:, 2, None])
    down = (boxes[:, 1, None] <= y) & (y < boxes[:, 3, None])
    return np.asarray((down[:, :, None] & across[:, None, :]).any(0))

"""The scores of one saliency map, by hand and against scipy."""

import numpy as np
import pytest

from finetune.grounding.map_scores import (
    area,
    box_scores,
    order_of,
    region_of,
    removals,
    shifted_region,
    strongest,
)
from interp.images.boxes import moved

QUARTER = np.array([[0.0, 0.0, 0.5, 0.5]])
"""A box that covers four whole cells of a 4 x 4 grid."""


def flat(*rows):
    return np.array(rows, float).ravel()


def test_box_scores_by_hand():
    # The box covers cell (1, 1) and 0.4 of cell (1, 2); only the centre of the first lies inside.
    region = region_of(np.array([[1.0, 1.0, 2.4, 2.0]]) / 4, 4)
    values = flat([0, 2, 0, -9], [0, 4, 3, 0], [0, 0, 1, 0], [-5, 0, 0, 0])
    found = box_scores(values, region, 0.2)
    assert found["mass"] == pytest.approx((4 + 0.4 * 3) / 10)
    # A fifth of 16 cells is three, those of values 4, 3 and 2.
    assert found["coverage"] == pytest.approx(1.0)
    assert found["precision"] == pytest.approx(1.4 / 3)
    assert found["pointing"] == 1
    values[5], values[6] = 3, 4
    assert box_scores(values, region, 0.2)["pointing"] == 0
    assert box_scores(values, region, 0.2)["mass"] == pytest.approx((3 + 0.4 * 4) / 10)
    assert box_scores(values, region, top=0.25)["precision"] == pytest.approx(1.4 / 4)


def test_ties_share_the_last_places():
    assert strongest(np.array([1.0, 3, 2, 2, 2, 0]), 2).tolist() == pytest.approx([0, 1, 1 / 3, 1 / 3, 1 / 3, 0])
    assert strongest(np.array([5.0, 5]), 1).tolist() == [0.5, 0.5]
    region = region_of(QUARTER, 4)
    values = flat([1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1])
    assert box_scores(values, region, 0.2)["pointing"] == 0.5
    # One of the three strongest cells is inside for certain; the last is any of the 14 others, of which 3 are inside.
    assert box_scores(values, region, 0.2)["coverage"] == pytest.approx((1 + 3 / 14) / 4)


def test_a_perfect_map_scores_one_and_beats_its_controls():
    region = region_of(QUARTER, 4)
    values = region.cover
    found = box_scores(values, region, top=0.25)
    assert all(found[name] == pytest.approx(1) for name in ("mass", "coverage", "precision", "pointing"))
    shifted = box_scores(values, shifted_region(region, 4), top=0.25)
    assert all(shifted[name] == 0 for name in found)
    random = region_of(moved(QUARTER, 200, np.random.default_rng(0)), 4)
    for name, control in box_scores(values, random, top=0.25).items():
        assert control.shape == (200,)
        assert control.mean() < 0.5, name


@pytest.mark.parametrize("values", [np.full(16, 0.3), -np.arange(16.0), np.zeros(16)])
def test_an_uninformative_map_scores_what_chance_gives(values):
    boxes = np.array([[0.1, 0.2, 0.45, 0.5]])
    elsewhere = moved(boxes, 2000, np.random.default_rng(0))
    true, random = (box_scores(values, region_of(b, 4), 0.2) for b in (boxes, elsewhere))
    for name in ("mass", "coverage", "precision"):
        # All places of the same size score the same, so the net is exactly zero.
        np.testing.assert_allclose(random[name], true[name], atol=1e-12)
    assert true["mass"] == pytest.approx(0.35 * 0.3)
    assert true["coverage"] == pytest.approx(3 / 16)
    assert random["pointing"].mean() == pytest.approx(0.35 * 0.3, abs=0.02)


def test_the_shifted_region_is_half_a_width_away():
    region = shifted_region(region_of(np.array([[0.55, 0.0, 0.95, 0.25]]), 4), 4)
    np.testing.assert_allclose(region.cover[:4], [0.8, 0.8, 0, 0], atol=1e-12)
    assert region.centres[:4].tolist() == [True, True, False, False]


def test_orders_and_removals():
    rng = np.random.default_rng(0)
    assert order_of(np.array([0.2, -3, 5, 1]), rng).tolist() == [2, 3, 0, 1]
    # Each of the tied cells comes first equally often.
    first = [order_of(np.array([1.0, 0, 1, 1]), rng)[0] for _ in range(600)]
    assert {i: first.count(i) for i in set(first)} == pytest.approx({0: 200, 2: 200, 3: 200}, abs=45)
    masks = removals(np.array([2, 3, 0, 1]), 4)
    assert masks.astype(int).tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]]
    assert removals(np.arange(4), 9).shape == (5, 4)
    assert removals(np.arange(256), 16).sum(1).tolist() == list(range(0, 257, 16))
    np.testing.assert_array_equal(removals(np.array([2, 3, 0, 1])[::-1], 2), ~masks[[4, 2, 0]])


def test_area_by_hand():
    assert area(np.array([4.0, 2, 0])) == 2
    np.testing.assert_allclose(area(np.array([[4.0, 0, 0], [1, 1, 1]])), [1, 1])

"""Lesion boxes: their shares of grid cells, and places away from them."""

import numpy as np
import pytest

from interp.images.boxes import centres_in, covered, grid_side, moved, moved_away, shifted, unit_boxes
from interp.runtime.errors import InputError


def test_boxes_are_stretched_like_their_image():
    boxes = unit_boxes([(10, 10, 30, 60), (150, 20, 260, 80)], (200, 80))
    np.testing.assert_allclose(boxes, [[0.05, 0.125, 0.15, 0.75], [0.75, 0.25, 1.0, 1.0]])


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (100, 0, 120, 9), (0, -9, 9, -1)])
def test_a_box_without_area_in_the_image_is_refused(box):
    with pytest.raises(InputError, match="no area inside its image of 100 x 50"):
        unit_boxes([(1, 1, 2, 2), box], (100, 50))


def test_shares_of_cells_match_hand_calculation():
    # The box reaches from the middle of column 1 to the end of column 2, and from 3/4 of row 0 to 1/4 of row 1.
    cover = covered(np.array([[1.5, 0.75, 3.0, 1.25]]) / 4, 4)
    expected = np.zeros((4, 4))
    expected[0, 1:3] = expected[1, 1:3] = 0.125, 0.25
    np.testing.assert_allclose(cover, expected, atol=1e-12)


def test_overlapping_boxes_count_once():
    # The left half and the upper half form an L of three quarters; a third box inside it changes nothing.
    boxes = np.array([[0, 0, 0.5, 1], [0, 0, 1, 0.5], [0.1, 0.1, 0.3, 0.4]])
    np.testing.assert_allclose(covered(boxes, 2), [[1, 1], [1, 0]], atol=1e-12)
    cover = covered(boxes, 3)
    np.testing.assert_allclose(cover, [[1, 1, 1], [1, 0.75, 0.5], [1, 0.5, 0]], atol=1e-12)


def test_shares_match_a_fine_raster():
    rng = np.random.default_rng(0)
    for _ in range(5):
        corners = np.sort(rng.integers(0, 161, (3, 2, 2)), axis=1)
        boxes = np.concatenate([corners[:, 0], corners[:, 1]], axis=1) / 160
        fine = np.zeros((160, 160))
        for x0, y0, x1, y1 in (boxes * 160).round().astype(int):
            fine[y0:y1, x0:x1] = 1
        np.testing.assert_allclose(covered(boxes, 8), fine.reshape(8, 20, 8, 20).mean((1, 3)), atol=1e-9)
        np.testing.assert_array_equal(centres_in(boxes, 160), fine > 0)


def test_centres_match_hand_calculation():
    # The centres of a 4 x 4 grid are at 1/8, 3/8, 5/8 and 7/8.
    inside = centres_in(np.array([[0.3, 0.1, 0.7, 0.36]]), 4)
    assert np.argwhere(inside).tolist() == [[0, 1], [0, 2]]


def test_a_shift_wraps_around_the_edge():
    grid = np.arange(16).reshape(4, 4)
    assert shifted(grid)[1].tolist() == [6, 7, 4, 5]
    np.testing.assert_array_equal(shifted(shifted(grid)), grid)


def test_moved_boxes_keep_shape_and_stay_in_the_image():
    boxes = np.array([[0.1, 0.2, 0.3, 0.4], [0.35, 0.3, 0.5, 0.8]])
    places = moved(boxes, 500, np.random.default_rng(0))
    steps = places - boxes
    np.testing.assert_allclose(steps, np.broadcast_to(np.tile(steps[:, :1, :2], 2), steps.shape), atol=1e-12)
    assert places.min() >= 0
    assert places.max() <= 1
    # The left edge is uniform in [0, .6], the upper edge in [0, .4].
    left, top = places[:, 0, 0], places[:, :, 1].min(1)
    assert (left.min(), left.max(), left.mean()) == pytest.approx((0, 0.6, 0.3), abs=0.03)
    assert (top.min(), top.max(), top.mean()) == pytest.approx((0, 0.4, 0.2), abs=0.03)


def test_places_away_hardly_overlap_the_boxes():
    boxes = np.array([[0.4, 0.4, 0.7, 0.6]])
    away = moved_away(boxes, 8, np.random.default_rng(0))
    assert away.shape == (8, 1, 4)
    for ((x0, y0, x1, y1),) in away:
        shared = max(0, min(x1, 0.7) - max(x0, 0.4)) * max(0, min(y1, 0.6) - max(y0, 0.4))
        assert shared <= 0.1 * 0.06 + 1e-12
    assert len(moved_away(np.array([[0.05, 0.05, 0.95, 0.95]]), 8, np.random.default_rng(0))) == 0


def test_tokens_that_form_no_square_are_refused():
    assert grid_side(256) == 16
    with pytest.raises(InputError, match="18 tokens"):
        grid_side(18)

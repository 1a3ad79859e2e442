"""Segmentations in all of COCO's forms, beside pycocotools; broken ones give one sentence, never a crash."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as mask_utils

from minimaskrcnn.data.segmentation import (
    FARTHEST,
    decode_segmentation,
    parse_segmentation,
    unpack_runs,
)

SIZE = (7, 9)
bitmaps = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda size: arrays.arrays(bool, size))
coordinates = st.floats(-20, 60, allow_nan=False, width=32)
polygons = st.lists(
    st.lists(coordinates, min_size=6, max_size=16).map(lambda p: p[: len(p) // 2 * 2]), min_size=1
)


def decoded(value, size=SIZE):
    return decode_segmentation(parse_segmentation(value, size), size)


def by_pycocotools(code) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' decode, beside numpy 2
        return mask_utils.decode(code).astype(bool)


def runs_by_hand(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0, 1, 0, ... down the columns."""
    runs, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@given(bitmaps)
def test_run_lengths_come_back_as_list_text_and_bytes(mask):
    size, packed = list(mask.shape), mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    for counts in (runs_by_hand(mask), packed.decode(), packed):
        np.testing.assert_array_equal(decoded({"size": size, "counts": counts}, mask.shape), mask)


def test_long_runs_with_negative_differences():
    # 5 characters a number, and differences to the run two before of either sign
    runs = [3, 900_000, 40, 7, 500_000, 700_000, 1, 1_899_949]
    size = (2000, 2000)
    assert sum(runs) == size[0] * size[1]
    code = mask_utils.frPyObjects({"size": list(size), "counts": runs}, *size)
    assert unpack_runs(code["counts"]).tolist() == runs


@given(polygons)
def test_polygons_are_rasterised_as_pycocotools_does(parts):
    size = (30, 41)
    expected = by_pycocotools(mask_utils.merge(mask_utils.frPyObjects(parts, *size)))
    np.testing.assert_array_equal(decoded(parts, size), expected)


def test_a_polygon_by_hand():
    expected = np.zeros(SIZE, dtype=bool)
    expected[2:5, 1:4] = True
    expected[0:2, 6:9] = True
    square, corner = [1, 2, 4, 2, 4, 5, 1, 5], [6, 0, 9, 0, 9, 2, 6, 2]
    np.testing.assert_array_equal(decoded([square, corner]), expected)


def test_points_and_lines_enclose_nothing():
    triangle = [[0, 0, 8, 0, 0, 6]]
    np.testing.assert_array_equal(decoded([[1, 1, 5, 5], *triangle, [3, 3], []]), decoded(triangle))
    # pycocotools alone would take two points for a box
    for empty in ([[1, 1, 5, 5]], [[]], [], None):
        assert not decoded(empty).any()


@given(st.binary(max_size=12) | st.text("0123456789OPQRSTUVWXYZ`abcdefghijklmno", max_size=12))
def test_no_text_of_run_lengths_crashes(counts):
    try:
        mask = decoded({"size": list(SIZE), "counts": counts})
    except ValueError:
        return
    assert mask.shape == SIZE


@pytest.mark.parametrize(
    "value, message",
    [
        ("0303", "list of polygons or run lengths"),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "a polygon must be a list"),
        ([[1, 2, 3, 4, 5, 6, 7]], "as many y as x, got 7"),
        ([[1, 2, "3", 4, 5, 6]], "expected a list of numbers"),
        ([[1, 2, None, 4, 5, 6]], "expected a list of numbers"),
        ([[1, 2, float("nan"), 4, 5, 6]], "finite"),
        ([[1, 2, float("inf"), 4, 5, 6]], "finite"),
        ({"size": [9, 7], "counts": [63]}, r"have size \[9, 7\], the picture's .* is \(7, 9\)"),
        ({"counts": [63]}, "have size None"),
        ({"size": [7, 9]}, "counts must be a list or a string, got None"),
        ({"size": [7, 9], "counts": [60]}, "add up to"),
        ({"size": [7, 9], "counts": [70, -7]}, "add up to"),
        ({"size": [7, 9], "counts": [0.5, 62.5]}, "add up to"),
        ({"size": [7, 9], "counts": []}, "add up to"),
        ({"size": [7, 9], "counts": ""}, "broken run-length"),
        ({"size": [7, 9], "counts": "oo"}, "broken run-length"),  # every character says that more follow
        ({"size": [7, 9], "counts": "a é"}, "broken run-length"),
        ({"size": [7, 9], "counts": "ooooooo0"}, "number of 8 characters"),
    ],
)
def test_what_is_not_cocos_format_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        parse_segmentation(value, SIZE)


def test_a_polygon_too_far_away_to_rasterise_is_refused():
    limit = FARTHEST * sum(SIZE)
    decoded([[0, 0, limit, 0, 0, 5]])
    with pytest.raises(ValueError, match=r"reaches 1e\+09 in a picture of .* \(7, 9\)"):
        decoded([[0, 0, 1e9, 0, 0, 5]])

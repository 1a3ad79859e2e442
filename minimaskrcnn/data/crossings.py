"""Polygons that cross themselves: which annotations have one.

Two edges cross where the ends of each lie strictly on different sides of the other.  Edges that touch, or run back
over each other, do not cross: COCO's outlines do both where a part is a pixel thin.

All polygons of one number of points are looked at together: edge i against edge i + k, for one k after the other.
That is V² / 2 pairs for V points, in memory of one number a point.
"""

import numpy as np

from minimaskrcnn.data.coco_table import AnnotationTable, polygons_of

MOST_POINTS = 5000  # of a polygon that is looked at: 12 million pairs of edges, about a second


def crossing_rows(table: AnnotationTable) -> np.ndarray:
    """bool [N]: a polygon of the row crosses itself.  Those of over `MOST_POINTS` points are taken as simple."""
    rows = np.zeros(len(table.id), bool)
    for polygons in polygons_of(table):
        counts = np.diff(polygons.start)
        for count in np.unique(counts[(counts > 3) & (counts <= MOST_POINTS)]).tolist():
            chosen = np.flatnonzero(counts == count)
            points = polygons.points[polygons.start[chosen][:, None] + np.arange(count)]
            rows[polygons.row[chosen[crosses_itself(points)]]] = True
    return rows


def crosses_itself(points: np.ndarray) -> np.ndarray:
    """bool [S] of S closed polygons of V points each, [S, V, 2]."""
    count = points.shape[1]
    edges = np.roll(points, -1, axis=1) - points
    # A product of two coordinates is right to about 1e-16 of its size: what is smaller than this is zero.
    tolerance = 1e-12 * np.square(np.abs(points).max(axis=(1, 2)) + 1)[:, None]
    crossed = np.zeros(len(points), bool)
    with np.errstate(all="ignore"):  # far coordinates overflow; such polygons are errors of their own
        for k in range(2, count // 2 + 1):
            start, edge = np.roll(points, -k, axis=1), np.roll(edges, -k, axis=1)
            a, b = (_side(edges, other - points, tolerance) for other in (start, start + edge))
            c, d = (_side(edge, other - start, tolerance) for other in (points, points + edges))
            crossed |= ((a * b < 0) & (c * d < 0)).any(axis=1)
    return crossed


def _side(edge: np.ndarray, to: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """-1, 0 or 1: on which side of the edge a point lies."""
    product = edge[..., 0] * to[..., 1] - edge[..., 1] * to[..., 0]
    return np.where(np.abs(product) <= tolerance, 0.0, np.sign(product))

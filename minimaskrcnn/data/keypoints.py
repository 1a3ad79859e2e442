"""COCO's keypoints: 17 joints of a person, each (x, y, v); v is 0 not labelled, 1 hidden, 2 visible.

Axis letters: N annotations, P of them with keypoints.
"""

from typing import Any, NamedTuple

import numpy as np

from minimaskrcnn.data.segmentation import parse_field

NUM_KEYPOINTS = 17
KEYPOINT_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
    "left_ankle", "right_ankle",
)  # fmt: skip
# COCO's lines between keypoints, which are counted from 0 here and from 1 in its files.
SKELETON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
    (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
FARTHEST_POINT = 1e6  # pixels; no picture is as large, and float32 still has a sixteenth of a pixel there


class KeypointRow(NamedTuple):
    """The keypoints of one annotation."""

    id: int
    points: np.ndarray  # float32 [17, 3]


class KeypointTable(NamedTuple):
    """The keypoints of P annotations."""

    annotation_id: np.ndarray  # int64 [P], sorted
    points: np.ndarray  # float32 [P + 1, 17, 3]; the last row is for annotations without: zeros


def table_of_poses(poses: list[KeypointRow]) -> KeypointTable:
    """The table of poses whose ids differ."""
    poses = sorted(poses, key=lambda pose: pose.id)
    absent = np.zeros((NUM_KEYPOINTS, 3), np.float32)
    ids = np.array([pose.id for pose in poses], np.int64)
    return KeypointTable(ids, np.stack([*(pose.points for pose in poses), absent]))


def parse_keypoints(entry: dict[str, Any]) -> np.ndarray:
    """float32 [17, 3] of an annotation, zeros where v is 0.  ValueError where it has no such keypoints."""
    numbers = parse_field(entry, "keypoints", NUM_KEYPOINTS * 3, f"{NUM_KEYPOINTS} times x, y, v")
    points = numbers.reshape(NUM_KEYPOINTS, 3)
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        raise ValueError(f"a keypoint's v must be 0, 1 or 2, got {points[:, 2].tolist()}")
    if np.abs(points).max() > FARTHEST_POINT:
        raise ValueError(f"a keypoint lies at {np.abs(points).max():g}")
    return np.where(points[:, 2:] > 0, points, 0).astype(np.float32)


def find_keypoints(table: KeypointTable, ids: np.ndarray) -> np.ndarray:
    """float32 [len(ids), 17, 3] of these annotations; zeros for those without."""
    row = np.searchsorted(table.annotation_id, ids)
    known = np.append(table.annotation_id, -1)[row] == ids
    return table.points[np.where(known, row, -1)]

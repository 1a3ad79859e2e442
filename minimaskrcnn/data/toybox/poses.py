"""Poses of the toybox's people: a skeleton of 17 joints in three dimensions, turned and seen without perspective.

Body frame: towards the person's own left, down, and ahead where the chest faces.  Picture frame: x right, y down,
z towards the viewer.  Lengths are in body heights.  A person who faces the viewer (yaw 0) has the left hand at the
larger x, one seen from the back at the smaller: left and right are the person's own, as in COCO.
Left out: perspective, bent spines, looking up and down, lying down.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

Array = np.ndarray
HEAD = 0.105  # radius
# Degrees: how far a limb's upper half is spread sideways and swung ahead, then its lower half.
ARMS = {
    "down": (14, 0, 8, 10), "hip": (48, -6, -42, 14), "wave": (104, 0, 160, 5), "up": (148, 0, 166, 0),
    "out": (82, 0, 88, 0), "ahead": (10, 62, 8, 85), "swing": (10, 34, 8, 70), "back": (12, -38, 8, -14),
    "bent": (22, 12, -38, 62),
}  # fmt: skip
LEGS = {
    "stand": (5, 0, 3, 0), "wide": (20, 0, 13, 0), "step": (4, 30, 4, 12), "trail": (4, -20, 4, -46),
    "knee": (10, 74, 6, -6), "side": (40, 0, 22, 0), "jump": (30, 25, -4, -40),
}  # fmt: skip
ARM_PAIRS = (
    ("down", "down"), ("hip", "hip"), ("wave", "down"), ("up", "up"), ("out", "out"), ("swing", "back"),
    ("ahead", "ahead"), ("bent", "down"), ("hip", "wave"), ("up", "out"), ("bent", "bent"),
)  # fmt: skip
LEG_PAIRS = (
    ("stand", "stand"), ("stand", "stand"), ("wide", "wide"), ("step", "trail"), ("step", "trail"),
    ("stand", "knee"), ("stand", "side"), ("jump", "jump"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Posture:
    """Points in the picture frame, relative to the pelvis."""

    joints: Float[Array, "17 3"]  # in COCO's order
    head: Float[Array, "3"]  # its centre
    gaze: Float[Array, "3"]  # unit vector in which the face looks
    toes: Float[Array, "2 3"]  # left, right


def turned(yaw: float) -> Float[Array, "3 3"]:
    """Rows: the body's left, down and ahead in the picture frame, turned by `yaw` about the vertical."""
    cos = np.cos(yaw)
    sin = np.sin(yaw)
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])


def limb(start: Array, lengths: tuple[float, float], angles: Array, sign: int) -> tuple[Array, Array]:
    """Middle and end joint of an arm or a leg in the body frame; `sign` is 1 for the left, -1 for the right."""
    joints = []
    point = start
    for length, spread, swing in zip(lengths, np.radians(angles[0::2]), np.radians(angles[1::2])):
        step = (sign * np.sin(spread), np.cos(spread) * np.cos(swing), np.cos(spread) * np.sin(swing))
        point = point + length * np.array(step)
        joints.append(point)
    return joints[0], joints[1]


def body_joints(rng: np.random.Generator) -> Float[Array, "17 3"]:
    """Shoulders to ankles in the body frame, in a random pose; the five joints of the head are left at 0."""
    arms = ARM_PAIRS[rng.integers(len(ARM_PAIRS))]
    legs = LEG_PAIRS[rng.integers(len(LEG_PAIRS))]
    swap_arms, swap_legs = rng.integers(0, 2, 2).tolist()
    joints = np.zeros((17, 3))
    for k, sign in enumerate((1, -1)):
        shoulder = np.array([sign * 0.118, -0.27, 0])
        hip = np.array([sign * 0.062, 0, 0])
        arm = np.array(ARMS[arms[k ^ swap_arms]]) + rng.normal(0, 7, 4)
        leg = np.array(LEGS[legs[k ^ swap_legs]]) + rng.normal(0, 4, 4)
        elbow, wrist = limb(shoulder, (0.15, 0.145), arm, sign)
        knee, ankle = limb(hip, (0.2, 0.205), leg, sign)
        joints[5 + k :: 2] = (shoulder, elbow, wrist, hip, knee, ankle)
    return joints


def draw_pose(rng: np.random.Generator) -> Posture:
    """A random pose, upright within 15 degrees: 60 % from the front, 20 % from the side, 20 % from behind."""
    view = rng.choice(3, p=[0.6, 0.2, 0.2])
    side_yaw = rng.choice([-1, 1]) * rng.uniform(0.6, 1.7)
    yaw = (rng.uniform(-0.6, 0.6), side_yaw, np.pi + rng.uniform(-0.7, 0.7))[view]
    body = turned(yaw)
    face = turned(yaw + rng.uniform(-0.4, 0.4))
    joints = body_joints(rng) @ body
    head = np.array([0, -0.445, 0.015]) @ body
    features = [[0, 0.12, 0.92], [0.38, -0.1, 0.88], [-0.38, -0.1, 0.88], [1.0, 0.02, 0], [-1.0, 0.02, 0]]
    joints[:5] = head + HEAD * np.array(features) @ face
    toes = joints[15:] + 0.07 * np.array([[0.35, 0.12, 1.0], [-0.35, 0.12, 1.0]]) @ body
    lean = np.clip(rng.normal(0, 0.11), -0.26, 0.26)
    tilt = np.array([[np.cos(lean), np.sin(lean), 0], [-np.sin(lean), np.cos(lean), 0], [0, 0, 1]])
    return Posture(joints=joints @ tilt, head=head @ tilt, gaze=face[2] @ tilt, toes=toes @ tilt)


def near_side(pose: Posture) -> Bool[Array, "17"]:
    """Which joints are on the side of the body, or of the head, that the viewer can see."""
    depth = pose.joints[:, 2].copy()
    depth[:5] -= pose.head[2]
    # Limbs are round, so either side of one shows its joints; ears, shoulders and hips stick out sideways.
    behind = np.repeat([0.0, -0.6 * HEAD, -0.085, -np.inf, -0.045, -np.inf], [3, 2, 2, 4, 2, 4])
    return depth > behind

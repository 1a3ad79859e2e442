"""Jointed people for the toybox: a pose dressed in round parts, painted from back to front.

A joint is visible (v = 2) where the topmost part at its pixel is one that it belongs to and it lies on the near
side; otherwise the person's own body hides it (v = 1): the face from behind, the far shoulder in profile, a hip
under a hand.  Axes: h, w is the sprite's window, x and y are its pixels; z, the depth, points to the viewer.
Left out: fingers, folds, expressions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from minimaskrcnn.data.toybox.poses import HEAD, Posture, draw_pose, near_side
from minimaskrcnn.data.toybox.shapes import (
    INK,
    Brush,
    Sprite,
    capsule,
    coverage,
    mix,
    polygon_distance,
    shadow_of,
    window,
)

Array = np.ndarray
UNIT_AREA = 0.24  # covered by a person of height 1, averaged over poses


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """Colours `[3]` and styles of one person."""

    skin: Array
    hair: Array
    shirt: Array
    trousers: Array
    shoes: Array
    long_hair: bool
    long_sleeves: bool
    skirt: bool
    hat: bool


@dataclass(frozen=True, kw_only=True)
class Part:
    """One painted piece: a signed distance that is negative only within `box`, painted in ascending `depth`."""

    distance: Callable[[Array, Array], Array]
    box: tuple[float, float, float, float]  # x0, y0, x1, y1
    colour: Array
    depth: float
    joints: frozenset[int]  # the keypoints that lie on it


def dress(rng: np.random.Generator, skin: Array, hair: Array, cloth: Float[Array, "n 3"]) -> Outfit:
    """Colours and styles; `cloth` holds the colours for clothes, at least one."""
    picks = cloth[rng.permutation(len(cloth))]
    styles = (rng.random(4) < [0.35, 0.5, 0.22, 0.2]).tolist()
    return Outfit(
        skin=skin, hair=hair, shirt=picks[0], trousers=picks[1 % len(picks)], shoes=mix(INK, picks[-1], 0.25),
        long_hair=styles[0], long_sleeves=styles[1], skirt=styles[2], hat=styles[3],
    )  # fmt: skip


def stick(
    ends: Array, radii: tuple[float, float], colour: Array, depth: float, joints: tuple[int, ...] = ()
) -> Part:
    """A capsule between the two points `ends [2, 2]`."""
    x0, y0 = ends.min(axis=0) - max(radii)
    x1, y1 = ends.max(axis=0) + max(radii)
    shape = partial(capsule, a=ends[0], b=ends[1], ra=radii[0], rb=radii[1])
    return Part(distance=shape, box=(x0, y0, x1, y1), colour=colour, depth=depth, joints=frozenset(joints))


def patch(corners: Array, radius: float, colour: Array, depth: float, joints: tuple[int, ...]) -> Part:
    """A polygon `[n, 2]` grown by `radius`."""
    x0, y0 = corners.min(axis=0) - radius
    x1, y1 = corners.max(axis=0) + radius

    def shape(x: Array, y: Array) -> Array:
        return polygon_distance(x, y, corners) - radius

    return Part(distance=shape, box=(x0, y0, x1, y1), colour=colour, depth=depth, joints=frozenset(joints))


def limb_parts(pose: Posture, size: float, outfit: Outfit) -> list[Part]:
    """Arms, hands, legs and shoes.  An arm is a little darker than its shirt, to show in front of it."""
    flat = pose.joints[:, :2] * size
    depths = pose.joints[:, 2]
    parts = []
    sleeve = mix(outfit.shirt, INK, 0.1)
    lower_sleeve = sleeve if outfit.long_sleeves else outfit.skin
    lower_leg = outfit.skin if outfit.skirt else outfit.trousers
    for k in (0, 1):
        shoulder, elbow, wrist, hip, knee, ankle = range(5 + k, 17, 2)
        for a, b, ra, rb, colour, bias in (
            (shoulder, elbow, 0.048, 0.041, sleeve, 0.012), (elbow, wrist, 0.038, 0.032, lower_sleeve, 0.01),
            (hip, knee, 0.062, 0.05, outfit.trousers, -0.04), (knee, ankle, 0.047, 0.036, lower_leg, -0.042),
        ):  # fmt: skip
            depth = (depths[a] + depths[b]) / 2 + bias
            parts.append(stick(flat[[a, b]], (ra * size, rb * size), colour, depth, (a, b)))
        hand = np.stack([flat[wrist], flat[wrist] + (flat[wrist] - flat[elbow]) * 0.12])
        depth = (depths[elbow] + depths[wrist]) / 2 + 0.011
        parts.append(stick(hand, (0.037 * size, 0.034 * size), outfit.skin, depth, (wrist,)))
        shoe = np.stack([flat[ankle] + 0.01 * size, pose.toes[k, :2] * size])
        depth = (depths[knee] + depths[ankle]) / 2 - 0.038
        parts.append(stick(shoe, (0.04 * size, 0.036 * size), outfit.shoes, depth, (ankle,)))
    return parts


def trunk_parts(pose: Posture, size: float, outfit: Outfit) -> list[Part]:
    """Neck, shirt and, for some, a skirt.  A chest seen from the side is as deep as 0.7 of its width."""
    flat = pose.joints[:, :2] * size
    neck = np.stack([(flat[5] + flat[6]) / 2, pose.head[:2] * size])
    sideways = 1 - np.linalg.norm(flat[5] - flat[6]) / (0.236 * size)
    radius = (0.055 + 0.028 * float(np.clip(sideways, 0, 1))) * size
    depth = 0.004 if pose.gaze[2] > 0 else -0.004  # a neck shows over a shirt's front, not over its back
    parts = [
        stick(neck, (0.04 * size, 0.04 * size), mix(outfit.skin, INK, 0.16), depth),
        patch(flat[[5, 6, 12, 11]], radius, outfit.shirt, 0.0, (5, 6, 11, 12)),
    ]
    if outfit.skirt:
        spread = (flat[11] - flat[12]) * 0.22
        hem = [flat[11 + k] + (flat[13 + k] - flat[11 + k]) * 0.7 + (spread, -spread)[k] for k in (0, 1)]
        corners = np.stack([flat[11], flat[12], hem[1], hem[0]])
        parts.append(patch(corners, radius - 0.003 * size, outfit.trousers, -0.006, (11, 12, 13, 14)))
    return parts


def hair_distance(x: Array, y: Array, centre: Array, r: float, gaze: Array) -> Array:
    """A cap over the head of radius `r`, without the disc of the face unless that is turned away."""
    middle = centre - np.array([0.1 * gaze[0], 0.1]) * r
    face = centre + np.array([0.5 * gaze[0], 0.42]) * r
    cap = capsule(x, y, middle, middle, 1.1 * r, 1.1 * r)
    return np.maximum(cap, -capsule(x, y, face, face, 0.98 * r, 0.98 * r)) if gaze[2] > -0.35 else cap


def hat_distance(x: Array, y: Array, centre: Array, r: float, gaze: Array) -> Array:
    """A crown, flat below, with a brim that is longer where the face looks."""
    middle = centre - [0, 0.12 * r]
    edge = np.float32(centre[1] - 0.4 * r)
    left = centre + np.array([-0.9 + 0.6 * min(gaze[0], 0), -0.42]) * r
    right = centre + np.array([0.9 + 0.6 * max(gaze[0], 0), -0.42]) * r
    crown = np.maximum(capsule(x, y, middle, middle, 1.14 * r, 1.14 * r), y - edge)
    return np.minimum(crown, capsule(x, y, left, right, 0.13 * r, 0.13 * r))


def head_parts(pose: Posture, size: float, outfit: Outfit) -> list[Part]:
    """Head, ears, hair, and for some a hat."""
    centre = pose.head[:2] * size
    r = HEAD * size
    gaze = pose.gaze
    ears = frozenset((3, 4))
    box = (centre[0] - 1.7 * r, centre[1] - 1.3 * r, centre[0] + 1.7 * r, centre[1] + 1.3 * r)
    parts = [stick(centre[None].repeat(2, axis=0), (r, r), outfit.skin, 0.05, (0, 1, 2, 3, 4))]
    for k in (3, 4):
        ear = (pose.joints[[k, k], :2]) * size
        parts.append(stick(ear, (0.2 * r, 0.2 * r), mix(outfit.skin, INK, 0.08), 0.049, (3, 4)))
    hair = partial(hair_distance, centre=centre, r=r, gaze=gaze)
    parts.append(Part(distance=hair, box=box, colour=outfit.hair, depth=0.06, joints=ears))
    if outfit.long_hair:
        locks = centre + np.array([[-0.35 * gaze[0], 0.1], [-0.7 * gaze[0], 1.25]]) * r
        depth = 0.045 if gaze[2] < 0.2 else -0.05
        parts.append(stick(locks, (1.05 * r, 0.72 * r), mix(outfit.hair, INK, 0.12), depth))
    if outfit.hat:
        hat = partial(hat_distance, centre=centre, r=r, gaze=gaze)
        parts.append(Part(distance=hat, box=box, colour=outfit.shirt, depth=0.07, joints=frozenset()))
    return parts


def face_parts(pose: Posture, size: float, outfit: Outfit) -> list[Part]:
    """Nose and eyes where they are on the near side, and the smile of a face that is turned to the viewer."""
    r = HEAD * size
    near = near_side(pose)
    dark = mix(outfit.skin, INK, 0.3)
    parts = []
    for k, colour in ((0, dark), (1, INK), (2, INK)):
        if near[k]:
            parts.append(
                stick(pose.joints[[k, k], :2] * size, (0.11 * r, 0.11 * r), colour, 0.062, (0, 1, 2))
            )
    if pose.gaze[2] > 0.3:
        across = 0.2 * pose.gaze[2]
        middle = 0.85 * pose.gaze[0]
        corners = np.array([[middle - across, 0.47], [middle, 0.55], [middle + across, 0.47]])
        smile = pose.head[:2] * size + corners * r
        parts += [stick(smile[k : k + 2], (0.05 * r, 0.05 * r), dark, 0.062) for k in (0, 1)]
    return parts


def paint_parts(
    parts: list[Part], x: Float[Array, "1 w"], y: Float[Array, "h 1"], margin: float
) -> tuple[Array, Array, Array, Array]:
    """Premultiplied colours `[h, w, 3]`, alpha, signed distance and index of the topmost part (-1: none) `[h, w]`.

    The distance is right as far as `margin` outside, which is as far as a shadow reaches.
    """
    shape = (y.size, x.size)
    rgb = np.zeros((*shape, 3), np.float32)
    alpha = np.zeros(shape, np.float32)
    distance = np.full(shape, 1e3, np.float32)
    topmost = np.full(shape, -1)
    for k, part in enumerate(parts):
        x0, x1 = np.searchsorted(x[0], [part.box[0] - margin, part.box[2] + margin])
        y0, y1 = np.searchsorted(y[:, 0], [part.box[1] - margin, part.box[3] + margin])
        place = (slice(y0, y1), slice(x0, x1))
        d = part.distance(x[:, x0:x1], y[y0:y1])
        share = coverage(d)
        rgb[place] += (part.colour - rgb[place]) * share[..., None]
        alpha[place] += (1 - alpha[place]) * share
        distance[place] = np.minimum(distance[place], d)
        topmost[place] = np.where(d < 0, k, topmost[place])
    return rgb, alpha, distance, topmost


def nearest_painted(topmost: Int[Array, "h w"], pixel: Int[Array, "17 2"]) -> Int[Array, "17 2"]:
    """The pixels (x, y) themselves where something is painted, else the nearest such pixel.

    A thin limb or the edge of a small head may leave the pixel that holds its joint less than half covered.
    """
    painted = np.argwhere(topmost >= 0)[:, ::-1]
    missing = topmost[pixel[:, 1], pixel[:, 0]] < 0
    nearest = [
        painted[np.argmin(((painted - spot) ** 2).sum(axis=1))] if gone else spot
        for spot, gone in zip(pixel, missing)
    ]
    return np.stack(nearest)


def draw_person(rng: np.random.Generator, area: float, outfit: Outfit, brush: Brush) -> Sprite:
    """A person of about `area` square pixels in a random pose, with 17 keypoints in the window's pixels."""
    size = (area / UNIT_AREA) ** 0.5
    pose = draw_pose(rng)
    pieces = (limb_parts, trunk_parts, head_parts, face_parts)
    parts = [part for piece in pieces for part in piece(pose, size, outfit)]
    parts = sorted(parts, key=lambda part: part.depth)
    boxes = np.array([part.box for part in parts])
    low = boxes[:, :2].min(axis=0)
    high = boxes[:, 2:].max(axis=0)
    half = (high - low) / 2 + 2 * brush.blur
    offset = rng.uniform(-0.5, 0.5, 2)
    x, y = window(half[1], half[0], tuple(offset.tolist()))
    x = x + np.float32((low + high)[0] / 2)
    y = y + np.float32((low + high)[1] / 2)
    rgb, alpha, distance, topmost = paint_parts(parts, x, y, 2 * brush.blur)
    shade = np.clip(0.08 + 0.16 * (x * brush.light[0] + y * brush.light[1]) / size, 0, 0.2)
    rgb = mix(rgb, INK * alpha[..., None], shade).astype(np.float32)
    corner = np.array([x[0, 0], y[0, 0]]) - 0.5
    pixel = nearest_painted(topmost, np.floor(pose.joints[:, :2] * size - corner).astype(np.int64))
    covering = topmost[pixel[:, 1], pixel[:, 0]].tolist()
    own = np.array([joint in parts[k].joints for joint, k in enumerate(covering)])
    flags = np.where(own & near_side(pose), 2, 1)
    keypoints = np.concatenate([pixel, flags[:, None]], axis=1)
    return Sprite(rgb=rgb, alpha=alpha, shadow=shadow_of(distance, brush.blur), keypoints=keypoints)

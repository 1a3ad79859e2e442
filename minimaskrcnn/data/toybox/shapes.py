"""Drawing for the toybox: a shape is a signed distance, and one distance gives edge, outline and shadow.

`distance(u, v)` is negative inside, positive outside, 0 on the outline.  Scaled to pixels it gives
    coverage   clip(1/2 - d, 0, 1)           an antialiased edge of one pixel
    outline    where -width < d < 0
    shadow     the same ramp, as wide as the blur
Axes: u, v are the shape's own coordinates (size about 1, v downwards); x, y are pixels; h, w is a sprite's
window.  Colours are float32 RGB in 0..1, and a sprite's are premultiplied by its alpha.
Left out: curves other than circles (nothing here needs a Bezier) and exact distances of stretched shapes: a
stretch of at most 1.3 leaves the sign, so the mask, exact and the soft edge between 0.88 and 1.14 pixels wide.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

Array = np.ndarray
Distance = Callable[[Array, Array], Array]
INK = np.array([0.13, 0.14, 0.22], np.float32)
CREAM = np.array([1.0, 0.98, 0.94], np.float32)


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """One drawn thing before it is placed; its window's centre is the point that placing moves."""

    rgb: Float32[Array, "h w 3"]  # premultiplied
    alpha: Float32[Array, "h w"]
    shadow: Float32[Array, "h w"]
    # (x, y, v) in the window; v is 1 where the body hides the joint
    keypoints: Int[Array, "17 3"] | None = None


@dataclass(frozen=True, kw_only=True)
class Brush:
    """What the sprites of one picture share."""

    light: tuple[float, float]  # the unit vector (x, y) along which light falls over the picture
    blur: float  # half-width of a shadow's soft edge, pixels


def norm(u: Array, v: Array) -> Array:
    """Length of (u, v); several times as fast as np.hypot, whose care for overflow is not needed here."""
    return np.sqrt(u * u + v * v)


def disc(u: Array, v: Array) -> Array:
    """A circle of radius 1; stretched by the caller it is an ellipse and still a disc."""
    return norm(u, v) - 1


def ring(u: Array, v: Array) -> Array:
    """The band between radii 0.46 and 1."""
    return np.abs(norm(u, v) - 0.73) - 0.27


def rounded_box(u: Array, v: Array, half_width: float, half_height: float, radius: float) -> Array:
    """An axis-aligned box with corners of `radius`, the corners included in its half sizes."""
    du = np.abs(u) - (half_width - radius)
    dv = np.abs(v) - (half_height - radius)
    return norm(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0) - radius


def square(u: Array, v: Array) -> Array:
    """A square of side 2 with rounded corners."""
    return rounded_box(u, v, 1, 1, 0.14)


def cross(u: Array, v: Array) -> Array:
    """A plus sign: two bars of 2 by 0.72."""
    return np.minimum(rounded_box(u, v, 1, 0.36, 0.08), rounded_box(u, v, 0.36, 1, 0.08))


def heart(u: Array, v: Array) -> Array:
    """Two arcs and two straight sides; the right half is an arc from the notch to the side that ends in the tip."""
    x = np.abs(u)
    y = v - 0.1
    cx = 0.47  # the arc's circle
    cy = -0.42
    r = 0.565
    nx = -cx  # notch and start of the side, as seen from the circle's centre
    ny = -((r * r - cx * cx) ** 0.5)
    side = r * 0.5**0.5
    length = (cx + side) * 2**0.5  # of the side, at 45 degrees
    px = x - cx
    py = y - cy
    lobe = norm(px, py) - r
    facing = (px * side - py * side < 0) & (px * ny - py * nx > 0)  # nearer to the chord than to the arc
    arc = np.where(facing, norm(px - nx, py - ny), np.abs(lobe))
    across = (px - side + py - side) * 0.5**0.5
    along = np.clip((py - px) * 0.5**0.5, 0, length)
    straight = norm(px - side + along * 0.5**0.5, py - side - along * 0.5**0.5)
    body = (across < 0) & ((px - nx) * (side - ny) < (py - ny) * (side - nx))
    return np.where((lobe < 0) | body, -1, 1) * np.minimum(arc, straight)


def polygon_distance(u: Array, v: Array, corners: Float[Array, "n 2"]) -> Array:
    """Signed distance to a simple polygon, corners in either direction; the sign is the crossing parity."""
    shape = np.broadcast_shapes(u.shape, v.shape)
    nearest = np.full(shape, np.inf, np.float32)
    inside = np.zeros(shape, bool)
    for (au, av), (bu, bv) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist()):
        eu = bu - au
        ev = bv - av
        pu = u - au
        pv = v - av
        along = np.clip((pu * eu + pv * ev) / max(eu * eu + ev * ev, 1e-12), 0, 1)
        nearest = np.minimum(nearest, (pu - along * eu) ** 2 + (pv - along * ev) ** 2)
        if ev:
            inside ^= ((av > v) != (bv > v)) & (pu < pv * (eu / ev))
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def star(u: Array, v: Array) -> Array:
    """Five points of radius 1 with slightly rounded tips."""
    turn = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.47)
    return polygon_distance(u, v, np.stack([radius * np.cos(turn), radius * np.sin(turn)], 1)) - 0.06


def triangle(u: Array, v: Array) -> Array:
    """Equal sides before stretching, slightly rounded corners."""
    turn = np.arange(3) * 2 * np.pi / 3 - np.pi / 2
    return polygon_distance(u, v, np.stack([np.cos(turn), np.sin(turn)], 1)) - 0.08


def capsule(x: Array, y: Array, a: Array, b: Array, ra: float, rb: float) -> Array:
    """A limb: the discs of radius `ra` at `a` to `rb` at `b`, and all between them."""
    ex = float(b[0] - a[0])
    ey = float(b[1] - a[1])
    px = x - np.float32(a[0])
    py = y - np.float32(a[1])
    along = np.clip((px * ex + py * ey) / max(ex * ex + ey * ey, 1e-9), 0, 1)
    return norm(px - along * ex, py - along * ey) - (ra + along * (rb - ra))


# name -> (distance, area of the shape as defined above); a test integrates the areas
FIGURES: dict[str, tuple[Distance, float]] = {
    "disc": (disc, 3.142),
    "square": (square, 3.983),
    "triangle": (triangle, 1.735),
    "star": (star, 1.798),
    "ring": (ring, 2.477),
    "heart": (heart, 2.503),
    "cross": (cross, 2.339),
}


def coverage(distance: Array) -> Array:
    """Share of each pixel that lies inside, from the distance in pixels at its centre."""
    return np.clip(np.float32(0.5) - distance, 0, 1).astype(np.float32)


def shadow_of(distance: Array, blur: float) -> Array:
    """A soft shadow: 1 well inside the shape, 0 further than `blur` outside."""
    ramp = np.clip(0.5 - distance / (2 * blur), 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def mix(a: Array, b: Array, share: Array | float) -> Array:
    """`a` where share is 0, `b` where it is 1; a share of [h, w] mixes colours of [3] to [h, w, 3]."""
    weight = np.asarray(share, np.float32)[..., None]
    return a + (b - a) * weight


def window(half_height: float, half_width: float, offset: tuple[float, float]) -> tuple[Array, Array]:
    """Pixel-centre coordinates x `[1, w]`, y `[h, 1]` around a point `offset` (x, y) from the window's centre."""
    rows = int(np.ceil(half_height)) + 1
    columns = int(np.ceil(half_width)) + 1
    y = np.arange(-rows, rows, dtype=np.float32)[:, None] + np.float32(0.5 - offset[1])
    x = np.arange(-columns, columns, dtype=np.float32)[None, :] + np.float32(0.5 - offset[0])
    return x, y


def pattern(rng: np.random.Generator, u: Array, v: Array, scale: float) -> Array | float:
    """How far each pixel of a figure is tinted, 0..1: not at all, in stripes, in dots, or half of it."""
    kind = rng.choice(["plain", "stripes", "dots", "half"], p=[0.55, 0.17, 0.14, 0.14])
    period = max(0.42, 4.5 / scale)  # a pattern finer than about 4.5 pixels is noise
    if kind == "stripes":
        return np.clip(0.5 + np.sin(u * (2 * np.pi / period)) * scale * period / 6, 0, 1)
    if kind == "dots":
        du = (u / period) % 1 - 0.5
        dv = (v / period) % 1 - 0.5
        return np.clip(0.5 - (norm(du, dv) - 0.27) * period * scale, 0, 1)
    if kind == "half":
        return np.clip(0.5 + u * scale, 0, 1)
    return 0.0


def draw_figure(
    rng: np.random.Generator, name: str, area: float, colour: Float32[Array, "3"], brush: Brush
) -> Sprite:
    """A figure of about `area` square pixels, turned, stretched, shaded and decorated at random."""
    distance, unit_area = FIGURES[name]
    scale = (area / unit_area) ** 0.5
    stretch = float(np.exp(rng.uniform(-0.131, 0.131)))
    turn = rng.uniform(0, 2 * np.pi)
    reach = 1.6 * scale + 2 * brush.blur
    x, y = window(reach, reach, tuple(rng.uniform(-0.5, 0.5, 2).tolist()))
    cos = np.float32(np.cos(turn))
    sin = np.float32(np.sin(turn))
    u = (cos * x + sin * y) / np.float32(scale * stretch)
    v = (cos * y - sin * x) / np.float32(scale / stretch)
    d = distance(u, v) * np.float32(scale)
    tint = CREAM if colour.mean() < 0.72 else INK
    rgb = mix(colour, tint, 0.24 * pattern(rng, u, v, scale))
    if rng.random() < 0.35:
        rim = mix(colour, INK if rng.random() < 0.7 else CREAM, 0.38)
        rgb = mix(rgb, rim, np.clip(d + 0.5 + max(1.0, 0.11 * scale), 0, 1))
    shade = (x * brush.light[0] + y * brush.light[1]) / (scale * 1.2)
    rgb = mix(rgb, mix(colour, INK, 0.55), np.clip(0.10 + 0.13 * shade, 0, 0.3))
    alpha = coverage(d)
    rgb = (rgb * alpha[..., None]).astype(np.float32)
    return Sprite(rgb=rgb, alpha=alpha, shadow=shadow_of(d, brush.blur))

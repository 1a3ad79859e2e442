"""What is where in a toybox scene: the distribution's numbers, and the objects arranged from back to front.

Objects are drawn as sprites, placed anywhere or so that they overlap an earlier one, and kept where every object
of the picture is still recognisable.  Axes: h, w is the picture; a place is (top, left) in whole pixels, so a
sprite is drawn once however many places are tried.  Left out: a physical world (nothing stands on anything).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from minimaskrcnn.data.toybox import backdrop as backdrops
from minimaskrcnn.data.toybox.coco_masks import bounding_box
from minimaskrcnn.data.toybox.people import draw_person, dress
from minimaskrcnn.data.toybox.shapes import Brush, Sprite, draw_figure

Array = np.ndarray
CATEGORIES: tuple[dict[str, int | str], ...] = (
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "round", "id": 3, "name": "disc"},
    {"supercategory": "round", "id": 4, "name": "ring"},
    {"supercategory": "round", "id": 7, "name": "heart"},
    {"supercategory": "straight", "id": 9, "name": "square"},
    {"supercategory": "straight", "id": 10, "name": "triangle"},
    {"supercategory": "straight", "id": 15, "name": "star"},
    {"supercategory": "straight", "id": 21, "name": "cross"},
)
FIGURE_NAMES = {int(category["id"]): str(category["name"]) for category in CATEGORIES[1:]}
PERSON = int(CATEGORIES[0]["id"])


@dataclass(frozen=True, kw_only=True)
class ToyboxConfig:
    """The distribution of scenes.  Areas are shares of the picture's area, and its side is sqrt(h * w).

    COCO's 32² and 96² at 640×480 are shares of 1/300 and 3/100: the borders of the three bands.
    """

    min_size: tuple[int, int] = (144, 144)  # (height, width); each side is drawn on its own
    max_size: tuple[int, int] = (192, 192)
    size_step: int = 16  # sides are min_size plus a multiple of this
    objects: tuple[int, int] = (2, 8)
    empty_share: float = 0.03  # pictures without any object
    crowd_share: float = 0.065  # pictures with a crowd region
    person_share: float = 0.17  # of objects; the other classes share the rest equally
    bands: tuple[tuple[float, float], ...] = ((0.0022, 0.0033), (0.0036, 0.030), (0.032, 0.14))
    band_shares: tuple[float, ...] = (0.24, 0.37, 0.39)  # small, medium, large, before anything is hidden
    attach_share: float = 0.64  # objects that are first tried where they overlap an earlier one
    same_class_share: float = 0.0  # of these, how many take the class of the one that they are tried at
    max_hidden: float = 0.6  # largest share of an object that others may hide
    min_inside: float = 0.62  # least share of an object within the picture
    min_area: float = 0.0013  # least visible area
    min_extent: float = 0.05  # least longer side of the visible box, of the picture's side
    rle_share: float = 0.06  # ordinary objects without a hole that are stored as RLE all the same

    def __post_init__(self) -> None:
        if not all(0 < low <= high for low, high in zip(self.min_size, self.max_size)) or self.size_step < 1:
            raise ValueError(
                f"sizes {self.min_size} to {self.max_size} in steps of {self.size_step} are no range"
            )
        if len(self.bands) != len(self.band_shares) or abs(sum(self.band_shares) - 1) > 1e-6:
            raise ValueError(f"{len(self.bands)} bands need as many shares of sum 1, got {self.band_shares}")
        if not 1 <= self.objects[0] <= self.objects[1]:
            raise ValueError(f"objects must be (at least 1, at most), got {self.objects}")
        if not 0 <= self.same_class_share <= 1:
            raise ValueError(f"same_class_share is a share, 0 to 1, got {self.same_class_share}")


@dataclass(frozen=True, kw_only=True)
class Palette:
    """The colours of one scene, all chosen to stand out from the backdrop's pair."""

    pair: Float32[Array, "2 3"]
    objects: Float32[Array, "n 3"]
    skins: Float32[Array, "s 3"]
    hairs: Float32[Array, "t 3"]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A sprite whose window's first pixel is (top, left) of the picture; negative where the border cuts it."""

    sprite: Sprite
    top: int
    left: int

    def overlap(
        self, height: int, width: int, shift: tuple[int, int] = (0, 0)
    ) -> tuple[tuple[slice, slice], ...]:
        """The rectangle in the picture, and the same in the sprite, moved by `shift` (down, right)."""
        rows, columns = self.sprite.alpha.shape
        top = self.top + shift[0]
        left = self.left + shift[1]
        y0, y1 = np.clip([top, top + rows], 0, height).tolist()
        x0, x1 = np.clip([left, left + columns], 0, width).tolist()
        return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))

    def mask(self, height: int, width: int) -> Bool[Array, "h w"]:
        """Pixels at least half covered."""
        mask = np.zeros((height, width), bool)
        there, here = self.overlap(height, width)
        mask[there] = self.sprite.alpha[here] >= 0.5
        return mask


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One painted object: a single sprite, or the many of a crowd."""

    category_id: int
    sprites: tuple[Placed, ...]
    whole: Bool[Array, "h w"]  # its pixels, as if nothing lay over it
    iscrowd: bool


def draw_palette(rng: np.random.Generator) -> Palette:
    """A backdrop pair and the colours that stand out from it; those of objects in random order."""
    pair = backdrops.BACKDROP_PAIRS[rng.integers(len(backdrops.BACKDROP_PAIRS))]
    objects = backdrops.standing_out(backdrops.OBJECT_COLOURS, pair, 0.2)
    return Palette(
        pair=pair,
        objects=objects[rng.permutation(len(objects))],
        skins=backdrops.standing_out(backdrops.SKIN_COLOURS, pair, 0.12),
        hairs=backdrops.standing_out(backdrops.HAIR_COLOURS, pair, 0.12),
    )


def draw_object(
    rng: np.random.Generator, category_id: int, area: float, colour: Array, palette: Palette, brush: Brush
) -> Sprite:
    """A figure of one colour, or a person in clothes of the palette."""
    if category_id != PERSON:
        return draw_figure(rng, FIGURE_NAMES[category_id], area, colour, brush)
    skin, hair = (tones[rng.integers(len(tones))] for tones in (palette.skins, palette.hairs))
    return draw_person(rng, area, dress(rng, skin, hair, palette.objects), brush)


def centred(sprite: Sprite, y: float, x: float) -> Placed:
    """The sprite with its window's centre at (y, x)."""
    rows, columns = sprite.alpha.shape
    return Placed(sprite=sprite, top=round(y) - rows // 2, left=round(x) - columns // 2)


def radius(sprite: Sprite) -> float:
    """Of the disc that has the sprite's area."""
    return (float(sprite.alpha.sum()) / np.pi) ** 0.5


def centre(placed: Placed) -> Float[Array, "2"]:
    """(y, x) of the window's centre."""
    rows, columns = placed.sprite.alpha.shape
    return np.array([placed.top + rows / 2, placed.left + columns / 2])


def apart(rng: np.random.Generator, sprite: Sprite, size: tuple[int, int], others: list[Placed]) -> Placed:
    """The one of three random places that is furthest from other objects and the border, so that pictures fill."""
    places = []
    rooms = []
    for spot in rng.uniform(0.05, 0.95, (3, 2)) * size:
        gaps = [float(np.linalg.norm(spot - centre(other))) for other in others]
        rooms.append(min([*gaps, *(2.5 * spot).tolist(), *(2.5 * (size - spot)).tolist()]))
        places.append(centred(sprite, *spot.tolist()))
    return places[int(np.argmax(rooms))]


def attached(rng: np.random.Generator, sprite: Sprite, others: list[Placed]) -> Placed:
    """A place that overlaps another object: of two picked at random, the one that is nearer in size."""
    picks = [others[k] for k in rng.integers(0, len(others), 2)]
    other = min(picks, key=lambda one: abs(np.log(radius(one.sprite) / radius(sprite))))
    away = (radius(sprite) + radius(other.sprite)) * rng.uniform(0.45, 1.0)
    turn = rng.uniform(0, 2 * np.pi)
    y, x = centre(other) + away * np.array([np.sin(turn), np.cos(turn)])
    return centred(sprite, float(y), float(x))


def visible_masks(layers: list[Layer]) -> list[Bool[Array, "h w"]]:
    """What later layers leave of each."""
    masks = []
    covered = np.zeros((), bool)
    for layer in reversed(layers):
        masks.append(layer.whole & ~covered)
        covered = covered | layer.whole
    return masks[::-1]


def recognisable(config: ToyboxConfig, layers: list[Layer]) -> bool:
    """Whether enough of the newest layer lies inside, and every layer shows enough of itself and is large enough."""
    newest = layers[-1]
    complete = sum(np.count_nonzero(placed.sprite.alpha >= 0.5) for placed in newest.sprites)
    if not newest.iscrowd and np.count_nonzero(newest.whole) < config.min_inside * complete:
        return False
    for layer, mask in zip(layers, visible_masks(layers)):
        least = max(config.min_area * mask.size, (1 - config.max_hidden) * np.count_nonzero(layer.whole), 1)
        if np.count_nonzero(mask) < least:
            return False
        if max(bounding_box(mask)[2:]) < config.min_extent * mask.size**0.5:
            return False
    return True


def draw_crowd(rng: np.random.Generator, size: tuple[int, int], palette: Palette, brush: Brush) -> Layer:
    """Ten to nineteen small people, or small figures of one class, in staggered rows: one crowd region."""
    height, width = size
    category_id = PERSON if rng.random() < 0.6 else int(rng.choice(list(FIGURE_NAMES)))
    count = int(rng.integers(10, 20))
    area = height * width * rng.uniform(0.003, 0.006)
    step = area**0.5 * (0.75, 1.15)[category_id != PERSON]  # people are narrow
    per_row = -(-count // int(rng.integers(2, 4)))
    y0 = rng.uniform(0.15, 0.75) * height
    x0 = rng.uniform(0.0, 0.5) * width
    placed = []
    for k in range(count):
        row, column = divmod(k, per_row)
        colour = palette.objects[k % len(palette.objects)]
        sprite = draw_object(rng, category_id, area * rng.uniform(0.8, 1.25), colour, palette, brush)
        y = y0 + (1.2 * row + rng.normal(0, 0.12)) * step
        x = x0 + (column + row / 2 + rng.normal(0, 0.12)) * step
        placed.append(centred(sprite, y, x))
    whole = np.logical_or.reduce([one.mask(height, width) for one in placed])
    return Layer(category_id=category_id, sprites=tuple(placed), whole=whole, iscrowd=True)


def draw_plan(rng: np.random.Generator, config: ToyboxConfig, count: int) -> list[tuple[int, float]]:
    """Category and share of the area of each object, roughly from large to small, so that few vanish behind."""
    ids = [PERSON, *FIGURE_NAMES]
    others = (1 - config.person_share) / len(FIGURE_NAMES)
    picked = rng.choice(ids, count, p=[config.person_share] + [others] * len(FIGURE_NAMES)).tolist()
    bands = rng.choice(len(config.bands), count, p=config.band_shares).tolist()
    areas = [float(np.exp(rng.uniform(*np.log(config.bands[band])))) for band in bands]
    order = np.argsort(np.log(areas) + rng.normal(0, 0.7, count))[::-1].tolist()
    return [(picked[k], areas[k]) for k in order]


def arrange(
    rng: np.random.Generator, config: ToyboxConfig, size: tuple[int, int], palette: Palette, brush: Brush
) -> list[Layer]:
    """The layers of one picture, back to front; an object that finds no good place in 12 tries is left out."""
    if rng.random() < config.empty_share:
        return []
    low, high = config.objects
    count = low + int(rng.binomial(high - low, 0.53))
    layers = []
    if rng.random() < config.crowd_share:
        layers = [draw_crowd(rng, size, palette, brush)]
        count = max(low, count - 2)
    for k, (category_id, share) in enumerate(draw_plan(rng, config, count)):
        colour = palette.objects[k % len(palette.objects)]
        area = share * size[0] * size[1]
        sprite = draw_object(rng, category_id, area, colour, palette, brush)
        objects = [layer for layer in layers if not layer.iscrowd]
        others = partners = [layer.sprites[0] for layer in objects]
        attach = rng.random() < config.attach_share and bool(others)
        # Nothing more is drawn where the share is 0: the frozen distribution would be another one.
        if attach and config.same_class_share > 0 and rng.random() < config.same_class_share:
            partner = objects[int(rng.integers(len(objects)))]
            category_id = partner.category_id
            partners = [partner.sprites[0]]
            sprite = draw_object(rng, category_id, area, colour, palette, brush)
        for attempt in range(12):
            overlap = attach and attempt < 8
            placed = attached(rng, sprite, partners) if overlap else apart(rng, sprite, size, others)
            layer = Layer(category_id=category_id, sprites=(placed,), whole=placed.mask(*size), iscrowd=False)
            if recognisable(config, [*layers, layer]):
                layers = [*layers, layer]
                break
    return layers

"""A scene of the toybox: its picture, and each object's mask, outline and keypoints.

A scene is a textured backdrop, now and then a crowd of small look-alikes, then 2 to 8 objects painted from back to
front.  As in COCO a mask is what is visible, keypoints are whole pixels, v is 2 for a visible joint, 1 for a hidden
one and 0 for one outside the picture, and people of the small band have no keypoints.
Axes: h, w is the picture.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from minimaskrcnn.data.toybox.backdrop import backdrop
from minimaskrcnn.data.toybox.coco_masks import EncodedMask, segmentation
from minimaskrcnn.data.toybox.layout import Layer, ToyboxConfig, arrange, draw_palette, visible_masks
from minimaskrcnn.data.toybox.shapes import Brush

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One annotation to be: an object, or a crowd region."""

    category_id: int
    mask: Bool[Array, "h w"]  # what is visible
    whole: Bool[Array, "h w"]  # the same as if nothing lay over it; the picture's border still cuts it
    segmentation: EncodedMask  # the mask as COCO stores it
    keypoints: Int[Array, "17 3"]  # (x, y, v); all 0 for figures, crowds and people of the small band
    iscrowd: bool

    @property
    def hidden(self) -> float:
        """Share of the in-picture object that other objects cover."""
        return 1 - float(self.mask.sum()) / float(self.whole.sum())


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and what is in it, back to front."""

    image: UInt8[Array, "h w 3"]
    objects: tuple[SceneObject, ...]


def paint(
    canvas: Float[Array, "h w 3"], layers: list[Layer], shadow_shift: tuple[int, int]
) -> UInt8[Array, "h w 3"]:
    """Every sprite over its shadow, which lies `shadow_shift` (down, right) of it, over the canvas."""
    picture = np.array(canvas, np.float32)
    height, width = picture.shape[:2]
    for placed in (placed for layer in layers for placed in layer.sprites):
        there, here = placed.overlap(height, width, shadow_shift)
        picture[there] *= 1 - 0.34 * placed.sprite.shadow[here][..., None]
        there, here = placed.overlap(height, width)
        picture[there] *= 1 - placed.sprite.alpha[here][..., None]
        picture[there] += placed.sprite.rgb[here]
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def scene_keypoints(layer: Layer, mask: Bool[Array, "h w"], least_area: float) -> Int[Array, "17 3"]:
    """A layer's keypoints in the picture; people who show less than `least_area` pixels have none, as in COCO."""
    placed = layer.sprites[0]
    if layer.iscrowd or placed.sprite.keypoints is None or mask.sum() < least_area:
        return np.zeros((17, 3), np.int64)
    x, y, v = (placed.sprite.keypoints + np.array([placed.left, placed.top, 0])).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    covered = (layer.whole & ~mask)[np.where(inside, y, 0), np.where(inside, x, 0)]
    return np.stack([x, y, np.where(covered, 1, v)], axis=1) * inside[:, None]


def make_scene(config: ToyboxConfig, seed: int, index: int) -> Scene:
    """Scene number `index` of the series `seed` (both at least 0), whichever process makes it and when."""
    rng = np.random.default_rng([seed, index])
    low = np.array(config.min_size)
    high = np.array(config.max_size)
    step = config.size_step
    height, width = (low + step * rng.integers(0, (high - low) // step + 1)).tolist()
    side = (height * width) ** 0.5
    turn = rng.uniform(0.25, 0.75) * np.pi
    # Light falls from above, between the left and the right.
    brush = Brush(light=(float(np.cos(turn)), float(np.sin(turn))), blur=side * 0.013)
    palette = draw_palette(rng)
    layers = arrange(rng, config, (height, width), palette, brush)
    shadow_shift = (round(side * 0.018 * brush.light[1]), round(side * 0.018 * brush.light[0]))
    image = paint(backdrop(rng, height, width, palette.pair), layers, shadow_shift)
    objects = []
    for layer, mask in zip(layers, visible_masks(layers)):
        polygons = not layer.iscrowd and bool(rng.random() >= config.rle_share)
        compressed = not layer.iscrowd and bool(rng.random() < 0.5)
        thing = SceneObject(
            category_id=layer.category_id, mask=mask, whole=layer.whole, iscrowd=layer.iscrowd,
            segmentation=segmentation(mask, polygons=polygons, compressed=compressed),
            keypoints=scene_keypoints(layer, mask, mask.size / 300),
        )  # fmt: skip
        objects.append(thing)
    return Scene(image=image, objects=tuple(objects))

"""Post-processing: from the heads' padded tables to what was found in each picture, in the caller's pixels.

Letters: n detections of a picture, K keypoints of each, m cells along a mask's side, h w the picture's own size.
"""

from typing import NotRequired, TypedDict

from jaxtyping import Float, Int
from torch import Tensor

from minimaskrcnn.box_head import Detections
from minimaskrcnn.data.transforms import Batch, resize_boxes, resize_keypoints, shift_keypoints
from minimaskrcnn.ops import paste_masks


class Detection(TypedDict):
    """What was found in one picture, best first, in its own pixels.

    `masks` are the float masks of the picture's size, or, with `paste=False`, `mask_probs` those of the head.
    `keypoints` are (x, y, 1), `keypoints_scores` what `KeypointHeadConfig.score` says.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]
    masks: NotRequired[Float[Tensor, "n 1 h w"]]
    mask_probs: NotRequired[Float[Tensor, "n m m"]]
    keypoints: NotRequired[Float[Tensor, "n K 3"]]
    keypoints_scores: NotRequired[Float[Tensor, "n K"]]


def to_pictures(
    found: Detections,
    batch: Batch,
    *,
    paste: bool,
    exact_paste: bool = False,
    pixel_centres: bool = False,
) -> list[Detection]:
    """The valid detections of each image as one dict, scaled back to the caller's pixels, with masks pasted.

    `exact_paste` is `MaskHeadConfig`'s, `pixel_centres` is `KeypointHeadConfig`'s.
    """
    results = []
    for image, (size, original) in enumerate(zip(batch.image_sizes, batch.original_sizes)):
        valid = found.valid[image]
        boxes = resize_boxes(found.boxes[image][valid], size, original)
        result = Detection(boxes=boxes, labels=found.labels[image][valid], scores=found.scores[image][valid])
        if found.mask_probs is not None:
            masks = found.mask_probs[image][valid]
            if paste:
                pasted = paste_masks(masks, boxes, original, threshold=None, exact=exact_paste)
                result["masks"] = pasted[:, None]
            else:
                result["mask_probs"] = masks
        if found.keypoints is not None:
            points = resize_keypoints(found.keypoints[image][valid], size, original)
            result["keypoints"] = shift_keypoints(points, -0.5) if pixel_centres else points
            result["keypoints_scores"] = found.keypoints_scores[image][valid]
        results.append(result)
    return results

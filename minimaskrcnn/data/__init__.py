"""From files to batches: `coco` (with `pictures` and `segmentation`) or `toybox`, `transforms`, `loader`."""

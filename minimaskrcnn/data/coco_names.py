"""COCO's 80 categories: ids are 1..90 with ten gaps."""

from typing import NamedTuple


class CategoryName(NamedTuple):
    """What a label means: the data set's category id and its name."""

    label: int
    category_id: int
    name: str


# Ten ids a line, from 1 on; a dash stands for an id that COCO does not use.
_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
fire hydrant, -, stop sign, parking meter, bench, bird, cat, dog, horse, sheep,
cow, elephant, bear, zebra, giraffe, -, backpack, umbrella, -, -,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
skateboard, surfboard, tennis racket, bottle, -, wine glass, cup, fork, knife, spoon,
bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut,
cake, chair, couch, potted plant, bed, -, dining table, -, -, toilet,
-, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster,
sink, refrigerator, -, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
COCO_NAMES = tuple(
    (id, name) for id, name in enumerate(_NAMES.replace("\n", " ").strip().split(", "), start=1) if name != "-"
)

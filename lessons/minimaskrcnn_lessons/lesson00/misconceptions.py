"""Lesson 00's wrong answers by name, and what to say of each; the first that fits is said."""

from minimaskrcnn_lessons.exercise import Misconception
from minimaskrcnn_lessons.lesson00 import mistakes

COUNT = (
    Misconception(
        name="strictly above the threshold",
        sentence="This is the number of scores above the threshold: a score equal to it counts too.",
        answer=mistakes.count_strictly,
    ),
    Misconception(
        name="class forgotten",
        sentence="This is the number of detections of all classes: ask for the label as well.",
        answer=mistakes.count_every_class,
    ),
    Misconception(
        name="labels counted from 0",
        sentence="This is the class before the one asked for: label 0 is the background, so classes start at 1 "
        "and nothing is subtracted.",
        answer=mistakes.count_from_zero,
    ),
    Misconception(
        name="scores added up",
        sentence="This is the sum of the scores: count the detections, each as one.",
        answer=mistakes.count_by_adding,
    ),
    Misconception(
        name="score forgotten",
        sentence="This is the number of detections of the class whatever their score: ask for the score as well.",
        answer=mistakes.count_whole_class,
    ),
    Misconception(
        name="brackets left out",
        sentence="This is `labels == label & ...`, where Python works out the & first. Put brackets round each "
        "comparison.",
        answer=mistakes.count_without_brackets,
    ),
    Misconception(
        name="either condition",
        sentence="This is the number of detections that have the label or the score: both are asked for.",
        answer=mistakes.count_either,
    ),
    Misconception(
        name="not counted",
        sentence="This is which detections count, one True or False for each: how many are there?",
        answer=mistakes.count_as_mask,
    ),
)

AREAS = (
    Misconception(
        name="at least the threshold",
        sentence="This is the number of pixels at or above the threshold: a mask holds the pixels strictly above "
        "it.",
        answer=mistakes.areas_at_least,
    ),
    Misconception(
        name="probabilities added up",
        sentence="This is the sum of the probabilities: compare with the threshold first, then count.",
        answer=mistakes.areas_soft,
    ),
    Misconception(
        name="channel axis kept",
        sentence="This is one row for each mask, of shape [n, 1]: the axis of length 1 has to go too.",
        answer=mistakes.areas_with_channel,
    ),
    Misconception(
        name="one number for all masks",
        sentence="This is the area of all masks together: sum over every axis but the first.",
        answer=mistakes.areas_in_all,
    ),
    Misconception(
        name="share of the picture",
        sentence="This is the share of the picture that each mask covers: count pixels, and do not divide.",
        answer=mistakes.areas_as_shares,
    ),
    Misconception(
        name="always one half",
        sentence="This is the area at threshold 0.5 whatever is asked for: use the argument.",
        answer=mistakes.areas_at_half,
    ),
    Misconception(
        name="probabilities above the threshold added up",
        sentence="This is the sum of the probabilities above the threshold: count these pixels, each as one.",
        answer=mistakes.areas_soft_above,
    ),
    Misconception(
        name="values picked out and added up",
        sentence="This is the sum of `masks[masks > threshold]`, which loses the axes and adds probabilities: sum "
        "the comparison itself, over every axis but the first.",
        answer=mistakes.areas_selected,
    ),
    Misconception(
        name="axes counted from the channel",
        sentence="This is a sum over the axes 1 and 2, the channel and the rows: the columns are axis 3 and "
        "still there.",
        answer=mistakes.areas_of_columns,
    ),
)

TIGHT = (
    Misconception(
        name="x and y swapped",
        sentence="This is (y1, x1, y2, x2): `nonzero` gives rows first, and a box begins with x, the column.",
        answer=mistakes.box_rows_first,
    ),
    Misconception(
        name="one past the last pixel",
        sentence="This is the box that covers the pixels to their far edge: here x2 and y2 are asked for as the "
        "indices of the last column and row.",
        answer=mistakes.box_one_past,
    ),
    Misconception(
        name="width and height",
        sentence="This is COCO's (x, y, width, height): the last two numbers asked for are the last column and "
        "row.",
        answer=mistakes.box_as_xywh,
    ),
    Misconception(
        name="differences of indices",
        sentence="This is (x1, y1, x2 - x1, y2 - y1): the last two numbers asked for are the last column and row "
        "themselves.",
        answer=mistakes.box_as_differences,
    ),
    Misconception(
        name="first and last pixel in reading order",
        sentence="This is the box from the first pixel to the last in reading order: the leftmost pixel can lie "
        "in any row.",
        answer=mistakes.box_of_reading_order,
    ),
    Misconception(
        name="columns of the first row only",
        sentence="This is as wide as the first row of the object: the columns of all rows count.",
        answer=mistakes.box_of_first_row,
    ),
    Misconception(
        name="x1, x2, y1, y2",
        sentence="This is (x1, x2, y1, y2): first come both numbers of the upper left corner, then both of the "
        "lower right.",
        answer=mistakes.box_by_axis,
    ),
    Misconception(
        name="a column of numbers",
        sentence="This is a column of shape [4, 1], because `nonzero` gives a row for each place. Join the "
        "four with `torch.cat`.",
        answer=mistakes.box_as_column,
    ),
)

BEST = (
    Misconception(
        name="the other axis",
        sentence="This is the best object for each detection: for each object the best detection is asked for, "
        "so the maximum runs over the other axis.",
        answer=mistakes.best_for_each_detection,
    ),
    Misconception(
        name="the other axis and no limit",
        sentence="This is the best object for each detection, however little they overlap: the maximum runs over "
        "the other axis, and below an IoU of 0.5 the answer is -1.",
        answer=mistakes.best_for_each_detection_whatever_iou,
    ),
    Misconception(
        name="no limit",
        sentence="This is the best detection however little it overlaps: below an IoU of 0.5 the object counts "
        "as missed, -1.",
        answer=mistakes.best_whatever_iou,
    ),
    Misconception(
        name="strictly above one half",
        sentence="This is the rule IoU > 0.5: an IoU of exactly 0.5 is enough.",
        answer=mistakes.best_above_half,
    ),
    Misconception(
        name="intersection for IoU",
        sentence="This is the largest intersection, which a huge box always wins: divide by the union.",
        answer=mistakes.best_by_intersection,
    ),
    Misconception(
        name="xyxy taken for xywh",
        sentence="This is right for boxes (x, y, width, height): these are (x1, y1, x2, y2).",
        answer=mistakes.best_of_xywh,
    ),
    Misconception(
        name="one pixel too wide",
        sentence="This is the IoU of boxes one pixel wider and higher: a width is x2 - x1, and nothing is + 1.",
        answer=mistakes.best_with_plus_one,
    ),
    Misconception(
        name="0 for missed",
        sentence="This is 0 where the object is missed, which names the first detection: a missed object has "
        "-1.",
        answer=mistakes.best_or_zero,
    ),
    Misconception(
        name="missed objects left out",
        sentence="This is an answer for the found objects only: a missed one has its place in the result, with "
        "-1.",
        answer=mistakes.best_of_found,
    ),
    Misconception(
        name="the IoU for its index",
        sentence="This is the IoU of the best detection: its index is asked for, the second result of `max`.",
        answer=mistakes.best_iou,
    ),
    Misconception(
        name="first that is good enough",
        sentence="This is the first detection with an IoU of 0.5 or more: a later one may overlap more.",
        answer=mistakes.best_is_first,
    ),
    Misconception(
        name="last of equal ones",
        sentence="This is the last of the detections with the largest IoU: of equal ones the first is asked "
        "for.",
        answer=mistakes.best_is_last,
    ),
    Misconception(
        name="each detection given once",
        sentence="This is each detection given to one object only: here two objects may share it. Lesson 10 "
        "forbids that.",
        answer=mistakes.best_given_once,
    ),
)

"""What is said of wrong answers to lesson 04's first two exercises."""

from minimaskrcnn_lessons.exercise import Misconception
from minimaskrcnn_lessons.lesson04 import mistakes

MATCH = (
    Misconception(
        name="maximum over the wrong axis",
        sentence="This is the best anchor of each object: the label needs the best object of each anchor.",
        answer=mistakes.match_wrong_axis,
    ),
    Misconception(
        name="> for >= at the upper threshold",
        sentence="This is a strict comparison at the upper threshold: an IoU equal to `high` is positive.",
        answer=mistakes.match_strict,
    ),
    Misconception(
        name="<= for < at the lower threshold",
        sentence="This is <= at the lower threshold: an IoU equal to `low` is ignored, only less is negative.",
        answer=mistakes.match_low_inclusive,
    ),
    Misconception(
        name="no rule for low quality",
        sentence="This is matching by the two thresholds alone: an object under `high` everywhere gets no "
        "anchor. Add the anchors that overlap it most.",
        answer=mistakes.match_no_low_quality,
    ),
    Misconception(
        name="ignored taken for negative",
        sentence="This is a label 0 for everything that is not positive: between the thresholds the label is -1.",
        answer=mistakes.match_nothing_ignored,
    ),
    Misconception(
        name="one anchor for each object",
        sentence="This is the low-quality rule for the first anchor only: all that tie for the highest IoU "
        "with an object are positive.",
        answer=mistakes.match_one_each,
    ),
    Misconception(
        name="an object that nothing touches takes all",
        sentence="This is a maximum of 0 taken for an overlap: an object that no anchor touches makes every "
        "anchor positive here. It should take none.",
        answer=mistakes.match_untouched,
    ),
    Misconception(
        name="one anchor for each object, touched or not",
        sentence="This is one anchor for each object (`argmax`): all that tie for the highest IoU are "
        "positive, and an object that nothing touches takes none.",
        answer=mistakes.match_one_each_always,
    ),
    Misconception(
        name="negative written last",
        sentence="This is the label 0 written after the low-quality rule, which it undoes: an anchor under "
        "`low` that fits an object best is positive. Write 1 last.",
        answer=mistakes.match_negative_last,
    ),
    Misconception(
        name="label first",
        sentence="This is the pair in the wrong order: `index` comes first, then `label`.",
        answer=mistakes.match_label_first,
    ),
    Misconception(
        name="low-quality rule changes the index",
        sentence="This is an index changed by the low-quality rule. The rule makes an anchor positive; its "
        "object stays the one that it overlaps most.",
        answer=mistakes.match_reassigned,
    ),
    Misconception(
        name="0 and -1 exchanged",
        sentence="This is 0 and -1 exchanged: 0 is negative (under `low`), -1 is ignored (between the "
        "thresholds).",
        answer=mistakes.match_codes_exchanged,
    ),
    Misconception(
        name="index of positives only",
        sentence="This is -1 for the index of anchors that are not positive. Asked is the object that each "
        "anchor overlaps most, whatever its label.",
        answer=mistakes.match_index_of_positives,
    ),
)

SAMPLE = (
    Misconception(
        name="places of missing positives stay empty",
        sentence="This is a fixed number of negatives: where positives are few, negatives fill their places.",
        answer=mistakes.sample_fixed_negatives,
    ),
    Misconception(
        name="no limit on positives",
        sentence="This is every positive there is room for: at most `int(number * fraction)` are taken.",
        answer=mistakes.sample_all_positives,
    ),
    Misconception(
        name="ignored sampled as negative",
        sentence="This is a sample with ignored anchors among the negatives: label -1 is neither.",
        answer=mistakes.sample_with_ignored,
    ),
    Misconception(
        name="lowest keys",
        sentence="This is the choice of the lowest keys: the highest are wanted, in descending order.",
        answer=mistakes.sample_lowest_keys,
    ),
    Misconception(
        name="keys unused",
        sentence="This is the choice of the first rows: the keys decide, or the same anchors would be asked "
        "in every step.",
        answer=mistakes.sample_in_order,
    ),
    Misconception(
        name="as many negatives as positives",
        sentence="This is one negative for each positive: negatives fill up to `number`, however few "
        "positives there are.",
        answer=mistakes.sample_balanced,
    ),
    Misconception(
        name="the share of positives forgotten",
        sentence="This is the highest keys of positives and negatives together: the share of positives is "
        "forgotten. At most `int(number * fraction)` are positive.",
        answer=mistakes.sample_by_key_alone,
    ),
    Misconception(
        name="all positives",
        sentence="This is every positive, however many: `fraction` is not used. At most `int(number * "
        "fraction)` are taken.",
        answer=mistakes.sample_everything_positive,
    ),
    Misconception(
        name="half whatever the fraction",
        sentence="This is a half where `fraction` belongs: the limit is `int(number * fraction)`.",
        answer=mistakes.sample_half,
    ),
    Misconception(
        name="share of the positives there are",
        sentence="This is `fraction` of the positives there are. It is the share of the sample: at most "
        "`int(number * fraction)` positives.",
        answer=mistakes.sample_share_of_positives,
    ),
    Misconception(
        name="negatives not reduced",
        sentence="This is up to `number` negatives beside the positives. Both together are at most `number`.",
        answer=mistakes.sample_negatives_not_reduced,
    ),
    Misconception(
        name="result by index",
        sentence="This is the right choice in the order of the rows: return it by descending key.",
        answer=mistakes.sample_by_index,
    ),
    Misconception(
        name="result by ascending key",
        sentence="This is the right choice the other way round: the highest key comes first.",
        answer=mistakes.sample_ascending,
    ),
    Misconception(
        name="negatives first",
        sentence="This is the pair in the wrong order: positives come first, then negatives.",
        answer=mistakes.sample_negative_first,
    ),
    Misconception(
        name="places among their kind",
        sentence="This is places among the positives, or among the negatives (`keys[label > 0].argsort()`), "
        "and not rows of `label`: look the rows up.",
        answer=mistakes.sample_places_among_their_kind,
    ),
    Misconception(
        name="repeated to fill up",
        sentence="This is a sample that repeats negatives to reach `number`. Each anchor is taken at most "
        "once: where there are too few, the sample is smaller.",
        answer=mistakes.sample_repeated,
    ),
)

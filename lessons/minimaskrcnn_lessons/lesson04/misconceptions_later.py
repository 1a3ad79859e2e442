"""What is said of wrong answers to lesson 04's last two exercises."""

from minimaskrcnn_lessons.exercise import Misconception
from minimaskrcnn_lessons.lesson04 import mistakes_later

LOSS = (
    Misconception(
        name="divided by the positives",
        sentence="This is the sum divided by the number of positives: the divisor is the number of all samples.",
        answer=mistakes_later.loss_over_positives,
    ),
    Misconception(
        name="mean over the four coordinates",
        sentence="This is a quarter of the loss: the four coordinates are added up, not averaged.",
        answer=mistakes_later.loss_mean,
    ),
    Misconception(
        name="negatives take part",
        sentence="This is the loss of all samples: a negative anchor has no box to be moved to.",
        answer=mistakes_later.loss_of_negatives,
    ),
    Misconception(
        name="Huber's loss",
        sentence="This is Huber's loss, beta times the smooth L1: the line should have slope 1.",
        answer=mistakes_later.loss_huber,
    ),
    Misconception(
        name="beta left out",
        sentence="This is smooth L1 with beta 1: use the argument `beta` in both branches.",
        answer=mistakes_later.loss_beta_one,
    ),
    Misconception(
        name="beta in the comparison only",
        sentence="This is beta in the comparison only: the two branches then do not meet. The parabola is "
        "divided by beta, and the line is lowered by half of it.",
        answer=mistakes_later.loss_half_beta,
    ),
    Misconception(
        name="no absolute value",
        sentence="This is a comparison of the signed error: large negative errors must be on the line too.",
        answer=mistakes_later.loss_without_abs,
    ),
    Misconception(
        name="divided by the positives, 0 / 0 without one",
        sentence="This is the sum divided by the number of positives, and NaN where there is none: the divisor"
        " is the number of all samples.",
        answer=mistakes_later.loss_over_positives_or_none,
    ),
    Misconception(
        name="mean over the positives",
        sentence="This is the mean over the positive rows and their coordinates (NaN where there is none). Add"
        " everything up, and divide by the number of all samples.",
        answer=mistakes_later.loss_mean_of_positives,
    ),
    Misconception(
        name="not divided",
        sentence="This is the sum itself: divide it by the number of samples.",
        answer=mistakes_later.loss_sum,
    ),
    Misconception(
        name="absolute error",
        sentence="This is the absolute error alone (L1). Under beta it is a parabola, and the line is lowered "
        "by half of beta to meet it.",
        answer=mistakes_later.loss_absolute,
    ),
    Misconception(
        name="parabola without its half",
        sentence="This is the parabola without the factor 1/2: it does not meet the line at beta.",
        answer=mistakes_later.loss_without_half,
    ),
    Misconception(
        name="line lowered by 1/2",
        sentence="This is a line lowered by 1/2: it is lowered by half of beta, or it does not meet the "
        "parabola.",
        answer=mistakes_later.loss_lowered_by_half,
    ),
)

NMS = (
    Misconception(
        name=">= for >",
        sentence="This is suppression from the threshold on: a box goes only where IoU exceeds it.",
        answer=mistakes_later.nms_at_least,
    ),
    Misconception(
        name="removed boxes still suppress",
        sentence="This is suppression by any better box: only one that was kept itself may remove another.",
        answer=mistakes_later.nms_by_removed,
    ),
    Misconception(
        name="worst first",
        sentence="This is ascending order: begin with the highest score.",
        answer=mistakes_later.nms_ascending,
    ),
    Misconception(
        name="not sorted",
        sentence="This is suppression in the order of the rows: sort by score first.",
        answer=mistakes_later.nms_in_order,
    ),
    Misconception(
        name="groups ignored",
        sentence="This is suppression across groups: compare boxes of the same group only.",
        answer=mistakes_later.nms_across_groups,
    ),
    Misconception(
        name="result by index",
        sentence="This is the right set in the order of the rows: return it by descending score.",
        answer=mistakes_later.nms_by_index,
    ),
    Misconception(
        name="intersection over the smaller box",
        sentence="This is intersection over the smaller area: divide by the area of the union.",
        answer=mistakes_later.nms_of_smaller,
    ),
    Misconception(
        name="places in the sorted order",
        sentence="This is the places in the sorted order: translate them to rows of `boxes` by `order[...]`.",
        answer=mistakes_later.nms_places_in_order,
    ),
    Misconception(
        name="group after group",
        sentence="This is one group after another: the groups are thinned apart, but the result is ordered by "
        "score over all of them.",
        answer=mistakes_later.nms_group_after_group,
    ),
    Misconception(
        name="last of equals first",
        sentence="This is an order in which the higher index comes first among equal scores (an ascending sort"
        " turned round): the lower index does.",
        answer=mistakes_later.nms_last_of_equals,
    ),
    Misconception(
        name="overlap kept, distance removed",
        sentence="This is the comparison turned round: it removes boxes that overlap less than the threshold.",
        answer=mistakes_later.nms_keeps_overlapping,
    ),
    Misconception(
        name="only the last kept box asked",
        sentence="This is a comparison with the box kept last: every box kept before may suppress.",
        answer=mistakes_later.nms_asks_the_last,
    ),
    Misconception(
        name="a mask",
        sentence="This is a mask that says of each box whether it is kept. Asked are the indices, by "
        "descending score.",
        answer=mistakes_later.nms_mask,
    ),
)

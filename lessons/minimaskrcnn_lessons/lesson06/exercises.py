"""The exercises of lesson 06; `answers.py` has the functions, `pictures.py` what they show."""

from minimaskrcnn_lessons.exercise import Exercise, Misconception
from minimaskrcnn_lessons.lesson06 import answers, pictures

EXERCISES = (
    Exercise(
        name="add_vectors",
        title="Add two vectors whose length the block does not divide",
        difficulty=1,
        minutes=10,
        points=2,
        right=answers.add_vectors,
        inputs=answers.vectors(),
        examples=15,
        misconceptions=(
            Misconception(
                name="no mask",
                sentence="This is the kernel without a mask: the last program also writes behind number n - 1.",
                answer=answers.add_unmasked,
            ),
            Misconception(
                name="store not masked",
                sentence="This is a mask on the loads only: the store needs it too, or zeros go behind the end.",
                answer=answers.add_unmasked_store,
            ),
            Misconception(
                name="<= for <",
                sentence="This is a mask that lets one lane too many through: the last number has index n - 1.",
                answer=answers.add_one_too_many,
            ),
            Misconception(
                name="program id not multiplied by BLOCK",
                sentence="This is pid + lane for an address: programs overlap. Each must begin a whole block later.",
                answer=answers.add_unscaled,
            ),
            Misconception(
                name="program id left out",
                sentence="This is the first block only: all programs do the same work. Use the program's id.",
                answer=answers.add_first_block,
            ),
            Misconception(
                name="nothing stored",
                sentence="This is `out` as it was: nothing is stored. A kernel returns nothing; what it has "
                "computed must go to memory by `tl.store`.",
                answer=answers.add_nothing_stored,
            ),
        ),
        hints=(
            "A program's numbers are `BLOCK` neighbours. How many numbers do the programs before it own?",
            "`i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)`, a mask `i < n`, two loads, one store: "
            "all three of them take the mask.",
        ),
        draw=pictures.draw_vectors,
        picture=pictures.picture_vectors,
    ),
    Exercise(
        name="row_maximum",
        title="The largest number of each row, for any strides",
        difficulty=2,
        minutes=15,
        points=3,
        right=answers.row_maximum,
        inputs=answers.matrices(),
        examples=15,
        misconceptions=(
            Misconception(
                name="other=0",
                sentence="This is a maximum in which masked lanes count as 0 (as they do here without `other`; on a "
                "GPU they then hold anything): below 0, that is the largest. `other` must never win.",
                answer=answers.max_of_zeros,
            ),
            Misconception(
                name="no mask",
                sentence="This is a load without a mask: it takes numbers behind the row's end for its own.",
                answer=lambda matrix: answers.rows_read_with(matrix, answers.BLOCK_ROW, *matrix.stride()),
            ),
            Misconception(
                name="rows taken as contiguous",
                sentence="This is `row * columns + column`: right for a contiguous matrix only. Use both strides.",
                answer=lambda matrix: answers.rows_read_with(matrix, matrix.shape[1], matrix.shape[1], 1),
            ),
            Misconception(
                name="strides exchanged",
                sentence="This is the row's stride on the column and the column's on the row.",
                answer=lambda matrix: answers.rows_read_with(matrix, matrix.shape[1], *matrix.stride()[::-1]),
            ),
            Misconception(
                name="column stride left out",
                sentence="This is a row whose numbers are taken to lie side by side: the column has a stride too.",
                answer=lambda matrix: answers.rows_read_with(matrix, matrix.shape[1], matrix.stride(0), 1),
            ),
            Misconception(
                name="row stride taken for the number of columns",
                sentence="This is `row * columns` for the first number of a row: rows may lie further apart, "
                "or closer. Use the row's stride.",
                answer=answers.rows_of_columns,
            ),
            Misconception(
                name="one place for all rows",
                sentence="This is one place for the results of all rows: each program stores behind `out_ptr`,"
                " at its own row.",
                answer=answers.rows_in_one_place,
            ),
            Misconception(
                name="nothing stored",
                sentence="This is `out` as it was, all NaN: nothing is stored. A kernel returns nothing; use "
                "`tl.store`.",
                answer=answers.rows_not_stored,
            ),
        ),
        hints=(
            "Where is number (row, column)? Two products and a sum. And what is the largest of no numbers?",
            "`matrix_ptr + row * row_stride + column * column_stride`, masked by `column < columns`, with "
            '`other=float("-inf")`; then `tl.max(..., 0)`.',
        ),
        draw=pictures.draw_rows,
        picture=pictures.picture_rows,
    ),
    Exercise(
        name="bilinear_channels",
        title="One sample, a block of channels",
        difficulty=2,
        minutes=20,
        points=3,
        right=answers.bilinear_channels,
        inputs=answers.points(),
        examples=15,
        misconceptions=(
            Misconception(
                name="last cell not clamped",
                sentence="This is a sample that reads behind the map's last row: its weight is 0, but it is loaded. "
                "Clamp the second cell of each axis.",
                answer=answers.bilinear_with(clamp=False),
            ),
            Misconception(
                name="weights exchanged",
                sentence="This is the fraction given to the first cell: a point close to a cell is mostly that cell.",
                answer=answers.bilinear_with(flip=True),
            ),
            Misconception(
                name="y and x exchanged",
                sentence="This is x counted in rows: in memory, rows lie one after another, so y is multiplied by W.",
                answer=answers.bilinear_with(exchange=True),
            ),
            Misconception(
                name="channels left out of the address",
                sentence="This is an address with one number a cell: each cell has C of them, so multiply by C.",
                answer=answers.bilinear_with(per_cell=1),
            ),
            Misconception(
                name="round for floor",
                sentence="This is a first cell that was rounded: take the cell before the point, not the nearest.",
                answer=answers.bilinear_with(round_half=True),
            ),
            Misconception(
                name="no mask",
                sentence="This is the kernel without a mask: lanes behind the last channel read what follows "
                "in memory, and write behind `out`'s channels.",
                answer=answers.bilinear_with(mask_loads=False, mask_store=False),
            ),
            Misconception(
                name="store not masked",
                sentence="This is a mask on the loads only: the store needs it too, or zeros go behind the "
                "last channel.",
                answer=answers.bilinear_with(mask_store=False),
            ),
            Misconception(
                name="program id left out",
                sentence="This is the first block of channels only: all programs do the same work. Use the "
                "program's id.",
                answer=answers.bilinear_with(blocks=1),
            ),
            Misconception(
                name="channels first",
                sentence="This is an address for a map [C, H, W], channel after channel. Here the channels of "
                "a cell lie side by side.",
                answer=answers.bilinear_with(channels_first=True),
            ),
            Misconception(
                name="fractions exchanged",
                sentence="This is the fraction of x given to the rows, and that of y to the columns.",
                answer=answers.bilinear_with(swap=True),
            ),
        ),
        hints=(
            "Cell (y, x) begins at `(y * width + x) * channels`; its channel c lies c further. "
            "`y.to(tl.int32)` cuts off the fraction.",
            "`top = y.to(tl.int32)`, `bottom = tl.minimum(top + 1, height - 1)`, the same for x. Four masked loads "
            "of `features_ptr + (row * width + column) * channels + c`, each times its two weights.",
        ),
        draw=pictures.draw_point,
        picture=pictures.picture_point,
    ),
    Exercise(
        name="scatter_gradient",
        title="Backward: many samples add to few cells",
        difficulty=3,
        minutes=20,
        points=3,
        right=answers.scatter_gradient,
        inputs=answers.samples(),
        examples=15,
        misconceptions=(
            Misconception(
                name="store instead of add",
                sentence="This is a plain store: the last lane overwrites what others put into the same cell.",
                answer=answers.scatter_store,
            ),
            Misconception(
                name="load, add, store",
                sentence="This is load, add, store: lanes that meet in a cell all read it before any has written, "
                "and all but one addition are lost. The three steps must be one.",
                answer=answers.scatter_load_add_store,
            ),
            Misconception(
                name="weights exchanged",
                sentence="This is the fraction given to the low cell: backward uses the weights of forward.",
                answer=answers.scatter_flipped,
            ),
            Misconception(
                name="low cell only",
                sentence="This is the whole gradient in the low cell: forward read two cells, so two get a share.",
                answer=answers.scatter_low_only,
            ),
            Misconception(
                name="last cell not clamped",
                sentence="This is a share that goes behind the last cell: clamp the second cell to `width - 1`.",
                answer=answers.scatter_unclamped,
            ),
            Misconception(
                name="gradient left out",
                sentence="This is the weights alone: each sample's share is its gradient times the weight.",
                answer=answers.scatter_weights,
            ),
            Misconception(
                name="no mask",
                sentence="This is a kernel whose lanes behind the last sample add too: mask them.",
                answer=answers.scatter_unmasked,
            ),
        ),
        hints=(
            "Forward, sample i was `(1 - f) * cell[low] + f * cell[high]`. What is its slope in each of the two?",
            "Two calls of `tl.atomic_add(out_ptr + cell, share, mask)`, the cells being vectors: one for the low "
            "cells with `grad * (1 - f)`, one for the high cells with `grad * f`.",
        ),
        draw=pictures.draw_scatter,
        picture=pictures.picture_scatter,
    ),
)

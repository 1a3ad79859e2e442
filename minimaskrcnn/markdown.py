"""Tables in Markdown."""

from collections.abc import Iterable, Iterator, Sequence


def table_lines(rows: Iterable[Sequence[str]], widths: Sequence[int] | None = None) -> Iterator[str]:
    """Lines of a table whose first row is its heading; the first column is flush left, the others flush right.

    Columns are as wide as their widest cell.  With `widths` each line is there as soon as its row is, and a longer
    cell sticks out.
    """
    if widths is None:
        rows = list(rows)
        widths = [max(3, *map(len, column)) for column in zip(*rows)]
    for number, (first, *others) in enumerate(rows):
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "| " + " | ".join([first.ljust(widths[0]), *cells]) + " |"
        if number == 0:
            rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
            yield "| " + " | ".join(rule) + " |"

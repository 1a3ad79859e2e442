"""Tables in Markdown: aligned, or with given widths line by line."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from minimaskrcnn.markdown import table_lines


@given(st.lists(st.lists(st.text("ab ±", max_size=8), min_size=3, max_size=3), min_size=1, max_size=5))
def test_columns_of_a_table_are_aligned(lines: list[list[str]]) -> None:
    drawn = list(table_lines(lines))
    assert len({len(line) for line in drawn}) == 1 and len(drawn) == len(lines) + 1
    assert set(drawn[1]) <= set("|:- ")
    for line, cells in zip([drawn[0], *drawn[2:]], lines):
        assert [cell.strip() for cell in line.strip("|").split("|")] == [cell.strip() for cell in cells]


def test_with_widths_a_line_is_there_as_soon_as_its_row_is() -> None:
    told: list[str] = []

    def rows() -> Iterator[list[str]]:
        for row in (["name", "ms"], ["one", "1.5"], ["another one", "22"]):
            told.append(row[0])
            yield row

    lines = table_lines(rows(), [6, 5])
    assert next(lines) == "| name   |    ms |" and told == ["name"]
    assert list(lines) == ["| :----- | ----: |", "| one    |   1.5 |", "| another one |    22 |"]

"""Style that the linter does not know: one thought a line."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("minimaskrcnn", "kernels/minimaskrcnn_kernels")
# Of all assignments, how many may set several targets to as many unrelated values: `a, b = x, y`.
MOST_PACKED = 0.02


def is_packed(node: ast.Assign) -> bool:
    """Whether both sides are tuples; a swap, whose sides are the same names, is not meant."""
    target, value = node.targets[0], node.value
    if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple):
        return False
    return {ast.unparse(t) for t in target.elts} != {ast.unparse(v) for v in value.elts}


def count_assignments(source: str) -> Counter[bool]:
    """How many assignments are packed (True) and how many are not (False)."""
    return Counter(is_packed(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign))


def packed_by_file() -> dict[str, Counter[bool]]:
    """`count_assignments` of each file of the two packages, by its path from the root."""
    return {
        path.relative_to(ROOT).as_posix(): count_assignments(path.read_text(encoding="utf-8"))
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def share(counts: list[Counter[bool]]) -> float:
    """Packed assignments by all assignments."""
    total = sum(counts, Counter())
    return total[True] / total.total()


def test_what_is_counted():
    source = "a, b = 1, 2\na, b = b, a\na[0], b.c = b.c, a[0]\na, b = f()\na = b = 1, 2\n(a, b), c = d, e\n"
    assert count_assignments(source) == {True: 2, False: 4}


def test_one_thought_a_line():
    found = packed_by_file()
    assert len(found) > 100
    packed = {name: c[True] for name, c in found.items() if c[True]}
    assert share(list(found.values())) <= MOST_PACKED, packed

"""`gpu_kernels.py` at tiny sizes on the CPU, with a clock of our own: what is checked, timed, refused and printed."""

from collections.abc import Callable
from dataclasses import replace

import gpu_kernels
import kernel_cases
import kernel_table
import pytest
import torch
from devices import DEVICE
from kernel_cases import Case, Goal, Sizes
from kernel_table import Measured, Row
from optional import need, need_kernels
from parity import torchvision
from test_bench import rows as cells_of

from minimaskrcnn import ops

TINY = Sizes(
    image=(64, 96),
    picture=(64, 90),
    channels=3,
    regions=((5, 7), (2, 14)),
    batches=(1, 2),
    candidates=(20, 30),
    classes=3,
    padded=(2, 12, 4),
    pasted=(3, 5),
)
CPU = torch.device("cpu")
NAN = float("nan")


class Clock:
    """Every call takes 2 ms; remembers how many it timed."""

    calls = 0

    def __call__(self, call: Callable[[], object]) -> float:
        self.calls += 1
        call()
        return 2.0


def table(only: str = "", clock: Callable | None = None, sizes: Sizes = TINY) -> list[Row]:
    # "auto" is the torch path on the CPU, under a name that tests can tell from the expected results' "torch".
    found = gpu_kernels.rows(CPU, sizes, clock or Clock(), backend="auto", only=only, copied=1000)
    return list(found)


def break_ours(monkeypatch, name: str, broken: Callable) -> None:
    """`broken(right, *args)` in the place of our implementation of an operation, where the backend is not "torch"."""
    right = getattr(ops, name)

    def op(*args, backend="auto", **named):
        if backend == "torch":
            return right(*args, backend=backend, **named)
        return broken(lambda *given: right(*given, backend=backend, **named), *args)

    monkeypatch.setattr(ops, name, op)


def test_every_row_is_checked_and_timed():
    clock = Clock()
    found = table(clock=clock)
    names = [row.case.name for row in found]
    # 2 sizes × 2 batches × 2 dtypes and 2 single maps, each in 4 directions; RoIPool and RoIWarp in 3.
    assert len(set(names)) == len(names) == (8 + 2) * 4 + 3 + 3 + 2 * 2 + 1 + 2
    for row in found:
        assert not row.refused and row.error is not None and row.error < 4e-3
        assert isinstance(row.ours, Measured) and isinstance(row.torch, Measured)
        assert row.floor is None or row.floor > 0
        assert len(kernel_table.texts(row)) == len(kernel_table.COLUMNS)
    cells = [cell for row in found for cell in (row.ours, row.torch, row.peer)]
    # And the copy.
    assert clock.calls == 1 + sum(isinstance(cell, Measured) for cell in cells)


def test_the_pasting_kernel_passes_the_check():
    need_kernels()
    for row in gpu_kernels.rows(DEVICE, TINY, Clock(), only="paste_masks", copied=1000):
        assert not row.refused and isinstance(row.ours, Measured)


def test_torchvision_is_timed_where_it_has_the_operation():
    torchvision()
    for row in table():
        lacks = "boxes too" in row.case.name or row.case.name.startswith("roi_warp")
        # Its RoI operations on a CPU lack float16.
        if "bfloat16" not in row.case.name:
            assert isinstance(row.peer, str) == lacks, row.case.name


@pytest.mark.parametrize("error", [ImportError, RuntimeError])
def test_what_torchvision_cannot_do_is_empty_and_not_timed(monkeypatch, error):
    def absent(inputs):
        raise error("no torchvision, or one for another torch, or no such dtype")

    case = replace(next(c for c in kernel_cases.cases(TINY) if c.name.startswith("paste")), peer=absent)
    monkeypatch.setattr(gpu_kernels, "cases", lambda sizes: [case])
    clock = Clock()
    (row,) = table(clock=clock)
    assert row.peer == "" and isinstance(row.ours, Measured)
    # The copy, ours, the torch path.
    assert clock.calls == 3
    assert kernel_table.texts(row)[-1] == "unknown"


@pytest.mark.parametrize("wrong", [lambda out: out * 1.0001, lambda out: out * NAN, lambda out: out[:-1]])
def test_a_wrong_value_is_refused_and_not_timed(monkeypatch, wrong):
    break_ours(monkeypatch, "paste_masks", lambda right, *args: wrong(right(*args)))
    clock = Clock()
    (row,) = table("paste_masks 3 at 64 × 90, float32", clock)
    assert row.refused and row.torch == row.peer == "" and clock.calls == 1
    line = kernel_table.texts(row)
    assert line[1] == "WRONG" and line[-1] == "not met"


def test_a_wrong_index_is_refused(monkeypatch):
    break_ours(monkeypatch, "nms", lambda right, *args: right(*args).flip(0))
    assert {row.case.name: row.refused for row in table("nms 20")} == {
        "nms 20": True,
        "batched_nms 20 in 3 groups": False,
    }


def test_a_wrong_gradient_is_refused_where_the_output_is_right(monkeypatch):
    def broken(right, features, boxes, *rest):
        slope = sum(f.sum() for f in features)
        return right(features, boxes, *rest) + 1e-3 * (slope - slope.detach())

    break_ours(monkeypatch, "multiscale_roi_align", broken)
    found = table("multiscale_roi_align 1 × 5 × 3 × 7×7, float32")
    assert [row.refused for row in found] == [False, True, True, True]


def test_a_wrong_gradient_of_the_boxes_is_refused(monkeypatch):
    def broken(right, feature, rois, *rest):
        return right(feature, rois * 1.1 - rois.detach() * 0.1, *rest)

    break_ours(monkeypatch, "roi_align", broken)
    found = table("roi_align 1 × 5 × 3 × 7×7, float32")
    found = [row for row in found if row.case.name.startswith("roi_align")]
    assert [row.refused for row in found] == [False, False, False, True]


def test_a_deterministic_backward_must_repeat_itself(monkeypatch):
    calls = []

    class Jitter(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            calls.append(torch.are_deterministic_algorithms_enabled())
            return grad * (1 + 1e-6 * len(calls))

    break_ours(monkeypatch, "roi_align", lambda right, feature, *rest: right(Jitter.apply(feature), *rest))
    found = [
        row for row in table("roi_align 1 × 5 × 3 × 7×7, float32") if row.case.name.startswith("roi_align")
    ]
    assert [row.refused for row in found] == [False, False, True, False]
    assert True in calls and False in calls and not torch.are_deterministic_algorithms_enabled()


def test_ours_is_timed_as_deterministic_and_torchvision_with_its_atomics(monkeypatch):
    torchvision()
    states = []

    def clock(call):
        states.append(torch.are_deterministic_algorithms_enabled())
        return 2.0

    table("roi_pool 1 × 5 × 3 × 7×7, float32: backward, deterministic", clock)
    # The copy, ours, the torch path, torchvision.
    assert states == [False, True, True, False]


def test_torchvision_gets_contiguous_maps_and_float16_for_bfloat16():
    maps, boxes, image = (
        torch.randn(1, 2, 3, 4).bfloat16().mT,
        torch.randn(5, 4),
        torch.zeros(5, dtype=torch.int64),
    )
    given = kernel_cases._as_peer_likes((maps, boxes, image))
    assert [t.dtype for t in given] == [torch.float16, torch.float16, torch.int64] and given[
        0
    ].is_contiguous()
    assert kernel_cases._as_peer_likes((maps.float(), boxes))[1].dtype == torch.float32


def test_running_out_of_memory_costs_one_cell_or_one_row(monkeypatch):
    def greedy(right, boxes, *rest):
        if len(boxes) == 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return right(boxes, *rest)

    break_ours(monkeypatch, "nms", greedy)
    monkeypatch.setattr(kernel_cases, "_peer_ops", lambda: ops)
    few, many = [row for row in table("nms ") if row.case.name.startswith("nms ")]
    assert few.ours == "out of memory" and not few.refused and few.error is None
    assert isinstance(many.ours, Measured) and isinstance(many.peer, Measured)


def test_out_of_memory_while_timing_leaves_the_other_cells():
    def clock(call):
        clock.calls += 1
        if clock.calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2.0

    clock.calls = 0
    (row,) = table("paste_masks 3 at 64 × 90, bool", clock)
    assert row.ours == "out of memory" and isinstance(row.torch, Measured)
    assert kernel_table.texts(row)[-1] == "unknown"


def test_the_floor_of_pasting_is_its_masks_boxes_and_pixels():
    # 1000 bytes copied in 2 ms: 1000 bytes a ms.
    bits, values = table("paste_masks")
    inputs = 3 * 5 * 5 * 4 + 3 * 4 * 4
    assert bits.floor == (inputs + 3 * 64 * 90) / 1000
    assert values.floor == (inputs + 3 * 64 * 90 * 4) / 1000
    assert kernel_table.texts(bits).count(f"{bits.floor / 2:.0%}") == 1


def test_the_floor_of_roi_align_counts_each_cell_that_is_sampled_once(monkeypatch):
    # Samples from 1.25 to 7.75 on both axes: cells 1..8.
    two = torch.tensor([[0.0, 4, 4, 32, 32]] * 2)
    monkeypatch.setattr(
        kernel_cases, "_map_and_rois", lambda sizes, stride, dtype, random: (torch.randn(1, 3, 16, 24), two)
    )
    found = [
        row for row in table("roi_align 1 × 5 × 3 × 7×7, float32") if row.case.name.startswith("roi_align")
    ]
    forward, backward, _, both = (row.floor * 1000 for row in found)
    read, out, maps, rois = 8 * 8 * 3 * 4 + 2 * 5 * 4, 2 * 3 * 49 * 4, 3 * 16 * 24 * 4, 2 * 5 * 4
    assert forward == pytest.approx(read + out)
    assert backward == pytest.approx(out + maps)
    assert both == pytest.approx(out + maps + rois + read)


@pytest.mark.parametrize(
    "goal, ours, peer, floor, verdict",
    [
        (Goal(), 1.0, 5.0, 0.9, ""),
        (Goal(speedup=5), 1.0, 5.0, None, "met"),
        (Goal(speedup=5), 1.0, 4.9, None, "not met"),
        (Goal(speedup=5), 1.0, None, None, "unknown"),
        (Goal(share=0.5), 2.0, None, 1.0, "met"),
        (Goal(share=0.5), 2.0, None, 0.9, "not met"),
        (Goal(share=0.5), 2.0, None, None, "unknown"),
        (Goal(speedup=5, share=0.5), 1.0, 5.0, 0.4, "not met"),
        (Goal(speedup=5, share=0.5), 1.0, None, 0.4, "not met"),
        (Goal(milliseconds=0.3), 0.3, None, None, "met"),
        (Goal(milliseconds=0.3), 0.31, None, None, "not met"),
        (Goal(milliseconds=0.3), None, None, None, "unknown"),
    ],
)
def test_a_goal_is_met_or_not(goal, ours, peer, floor, verdict):
    case = Case(name="x", inputs=lambda random: (), ours=lambda backend, inputs: (), goal=goal)
    cells = ["" if ms is None else Measured(ms, 3 * 2**20) for ms in (ours, peer)]
    line = kernel_table.texts(Row(case=case, ours=cells[0], peer=cells[1], floor=floor))
    assert line[-1] == verdict
    assert line[7] == ("" if ours is None else "3.0")


def test_only_chooses_rows_by_their_names():
    names = [row.case.name for row in table("s 3 at")]
    assert names == ["paste_masks 3 at 64 × 90, bool", "paste_masks 3 at 64 × 90, float32"]
    with pytest.raises(ValueError, match="no row's name contains 'soft_nms'"):
        table("soft_nms")


def test_the_full_sizes_carry_the_promises():
    goals = {case.name: case.goal for case in kernel_cases.cases(Sizes())}
    box, mask = "multiscale_roi_align 8 × 1000 × 256 × 7×7", "multiscale_roi_align 2 × 100 × 256 × 14×14"
    assert goals[f"{box}, float32: forward"] == Goal(speedup=3, share=0.5)
    assert goals[f"{box}, bfloat16: forward"] == Goal(speedup=5, share=0.5)
    assert goals[f"{mask}, float32: forward"] == Goal(speedup=3)
    assert goals[f"{mask}, bfloat16: backward"] == Goal(speedup=2)
    assert goals[f"{box}, float32: backward, deterministic"] == Goal(speedup=0.5)
    assert goals["nms 1000"].milliseconds == 0.3 and goals["nms 10000"].milliseconds == 1
    assert goals["paste_masks 100 at 800 × 1333, bool"] == Goal(speedup=5)


def test_the_table_is_printed_and_written(monkeypatch, tmp_path, capsys):
    need("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    case = Case(name="x", inputs=lambda random: (), ours=lambda backend, inputs: ())
    rows = [Row(case=case, ours=Measured(1.0, None)), Row(case=case, refused=True, ours="WRONG")]
    monkeypatch.setattr(gpu_kernels, "rows", lambda *args, only: iter(rows) if only == "x" else iter([]))
    out = tmp_path / "new" / "table.md"
    with pytest.raises(SystemExit) as exit_:
        gpu_kernels.main(["--only", "x", "--out", str(out)])
    # A string: exit code 1, and the string on standard error.
    assert "1 rows disagree" in exit_.value.code
    printed = capsys.readouterr().out
    assert printed == out.read_text() and list(out.parent.iterdir()) == [out]
    assert printed.startswith("A GPU, torch ") and len(cells_of(printed)) == 4


def test_a_table_without_mistakes_exits_with_0(monkeypatch):
    monkeypatch.setattr(gpu_kernels, "run", lambda only, out: 0)
    gpu_kernels.main([])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit) as exit_:
        gpu_kernels.main([])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1

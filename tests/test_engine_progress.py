"""Progress: a bar on a terminal, elsewhere a line every half minute of a clock that the tests turn."""

import io
from dataclasses import dataclass

import pytest
import torch

from minimaskrcnn.engine.progress import Progress, line

LOSSES = {"loss": torch.tensor(1.25), "loss_mask": torch.tensor(0.75), "loss_box_reg": torch.tensor(0.5)}


@dataclass
class Clock:
    """One that stands still unless it is turned."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(monkeypatch, first: int, steps: int, *, each: float, stream: io.StringIO | None = None, **options):
    """What a run of `each` seconds a step writes to standard error."""
    stream = stream or io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    clock = Clock(now=1000.0)
    progress = Progress(first, steps, options.pop("seconds", 30.0), clock=clock, **options)
    done = []
    for step in progress:
        clock.now += each
        done.append(step + 1)
        progress.tell(step + 1, LOSSES)
    assert done == list(range(first + 1, steps + 1))
    return stream.getvalue()


def test_a_line_in_words():
    expected = "step 40/1300, 1.5 minutes left: loss 1.250 (mask 0.750, box_reg 0.500)"
    assert line(40, 1300, 90.0, LOSSES) == expected


def test_a_line_every_half_minute(monkeypatch):
    lines = told(monkeypatch, 0, 10, each=12.0).splitlines()
    # After 36, 72 and 108 seconds, and never two within 30.
    assert [text.split(",")[0] for text in lines] == ["step 3/10", "step 6/10", "step 9/10"]
    assert [text.split(":")[0].split(", ")[1] for text in lines] == [
        "1.4 minutes left",
        "0.8 minutes left",
        "0.2 minutes left",
    ]


def test_a_resumed_run_counts_its_own_steps_for_the_time_left(monkeypatch):
    lines = told(monkeypatch, 90, 100, each=60.0).splitlines()
    assert len(lines) == 10 and lines[0].startswith("step 91/100, 9.0 minutes left: ")


def test_a_short_run_says_nothing(monkeypatch):
    assert told(monkeypatch, 0, 10, each=2.9) == ""


@pytest.mark.parametrize("options", [{"seconds": 0.0}, {"shown": False}])
def test_silence_where_it_is_asked_for(monkeypatch, options):
    assert told(monkeypatch, 0, 10, each=60.0, **options) == ""


def test_a_terminal_has_the_bar_and_no_lines(monkeypatch):
    written = told(monkeypatch, 0, 10, each=60.0, stream=Terminal())
    assert "train" in written and "10/10" in written and "minutes left" not in written
    assert told(monkeypatch, 0, 10, each=60.0, stream=Terminal(), shown=False) == ""


def test_losses_are_read_for_a_line_only(monkeypatch):
    reads = []

    class Loss(torch.Tensor):
        def item(self) -> float:
            reads.append(1)
            return 1.0

    monkeypatch.setattr("sys.stderr", io.StringIO())
    clock = Clock()
    progress = Progress(0, 5, 30.0, clock=clock)
    for step in progress:
        clock.now += 16.0
        progress.tell(step + 1, {"loss": torch.zeros(()).as_subclass(Loss)})
    assert len(reads) == 2

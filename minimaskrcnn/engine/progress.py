"""What a training shows of itself while it runs: tqdm's bar on a terminal; into a file or a pipe, plain lines.

A model never reports; the training loop calls `tell` after each step.  Losses are read from their device only for a
line, so on a GPU nothing waits for anything but every half minute.
"""

import sys
import time
from collections.abc import Callable, Iterator

from torch import Tensor
from tqdm import tqdm

from minimaskrcnn.distributed import rank


class Progress:
    """The steps `first` to `steps` of a run, and how far it has come, on standard error."""

    def __init__(
        self,
        first: int,
        steps: int,
        seconds: float,
        *,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A line every `seconds` where there is no terminal, 0 for none; nothing at all unless `shown`."""
        self.bar = tqdm(
            range(first, steps), initial=first, total=steps, desc="train", disable=None if shown else True
        )
        self.first = first
        self.steps = steps
        self.seconds = seconds if shown and self.bar.disable else 0.0
        self.clock = clock
        self.began = clock()
        self.told = self.began

    def __iter__(self) -> Iterator[int]:
        return iter(self.bar)

    def tell(self, done: int, losses: dict[str, Tensor]) -> None:
        """After each step: `done` of them in all, and the losses of this one, with their sum as `loss`."""
        now = self.clock()
        if not self.seconds or now - self.told < self.seconds:
            return
        self.told = now
        left = (now - self.began) / (done - self.first) * (self.steps - done)
        print(line(done, self.steps, left, losses), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A line on standard output, from the first of several processes; a bar on a terminal stays below it."""
    if rank() == 0:
        tqdm.write(text)
        # Into a file, standard output would come long after the lines of standard error.
        sys.stdout.flush()


def line(done: int, steps: int, left: float, losses: dict[str, Tensor]) -> str:
    """Steps done, minutes of the `left` seconds, the loss and its parts."""
    parts = [f"{name.removeprefix('loss_')} {value.item():.3f}" for name, value in losses.items()]
    return f"step {done}/{steps}, {left / 60:.1f} minutes left: {parts[0]} ({', '.join(parts[1:])})"

"""Several processes that train one model: who am I, what do we divide by, and how results come together.

`torchrun` starts the processes and tells each its rank; torch's DistributedDataParallel averages their gradients.
That average is the gradient of one process on the joint batch only if every rank divides its sums by the same number,
so losses divide by counts that are summed over ranks (`shared_divisor`).  In one process everything here is the
identity.

Left out: batch norm over ranks, and models that are split between devices.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed


def rank() -> int:
    """This process's number; 0 where there is one."""
    return distributed.get_rank() if _many() else 0


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _many() else 1


def _many() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def shared_divisor(count: Int[Tensor, ""]) -> Int[Tensor, ""] | Float[Tensor, ""]:
    """What a sum of this rank is divided by: the ranks' mean `count`, and never less than one thing among them all.

    All ranks must call it, in the same order.
    """
    if world_size() == 1:
        return count.clamp(min=1)
    total = count.detach().clone()
    distributed.all_reduce(total)
    # float64: a third in float32 would be another divisor than one process has.
    return total.clamp(min=1).double() / world_size()


def mean_over_ranks(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each number's mean over all ranks, which must have the same names."""
    if world_size() == 1:
        return values
    together = torch.stack([value.detach() for value in values.values()])
    distributed.all_reduce(together)
    return dict(zip(values, together / world_size()))


def gather_json(value: Any) -> list[Any]:
    """Every rank's `value`, of what JSON knows, in the order of the ranks; on all of them."""
    if world_size() == 1:
        return [value]
    texts: list[Any] = [None] * world_size()
    distributed.all_gather_object(texts, json.dumps(value))
    return [json.loads(text) for text in texts]


def wait_for_all() -> None:
    """Go on when every rank is here."""
    if world_size() > 1:
        distributed.barrier()


@contextmanager
def processes() -> Iterator[str | None]:
    """The process group that torchrun's environment describes, if any; yields this process's device, or None.

    A GPU for each process where there are any, else the CPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None
        return
    missing = [
        name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise ValueError(f"WORLD_SIZE is set but {', '.join(missing)} is not: start with torchrun")
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device != "cpu" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()

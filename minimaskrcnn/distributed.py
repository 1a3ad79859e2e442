"""Several processes that train one model: who am I, what do we divide by, and how results come together.

`torchrun` starts the processes and tells each its rank; torch's DistributedDataParallel averages their gradients.
That average is the gradient of one process on the joint batch only if every rank divides its sums by the same number,
so losses are divided by counts that are summed over ranks (`shared_means`).  In one process everything here is the
identity.

Left out: batch norm over ranks, and models that are split between devices.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from minimaskrcnn.losses import Loss


def rank() -> int:
    """This process's number; 0 where there is one."""
    return distributed.get_rank() if _many() else 0


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _many() else 1


def _many() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def shared_means(losses: dict[str, Loss]) -> dict[str, Float[Tensor, ""]]:
    """Each loss's sum over the ranks' mean count, and never over less than one thing among them all.

    Every rank has the same divisors, so that the mean of their gradients is the gradient of the joint batch.  All
    ranks must call it, with the same losses.
    """
    if world_size() == 1:
        return {name: loss.mean for name, loss in losses.items()}
    # One message for all counts.
    total = torch.stack([loss.count for loss in losses.values()])
    distributed.all_reduce(total)
    # float64: a third in float32 would be another divisor than one process has.
    divisors = total.clamp(min=1).double() / world_size()
    return {name: loss.sum / divisor for (name, loss), divisor in zip(losses.items(), divisors)}


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


def averaging(model: nn.Module) -> nn.Module:
    """`model` with gradients that are averaged over ranks; in one process `model` itself."""
    if world_size() == 1:
        return model
    # Every parameter is used in every step.  But without this flag DDP deals its gradients out to buckets anew after
    # its first step, so that the first step of a resumed run would add them up in another order: of three ranks and
    # more the last bits would differ from those of the uninterrupted run.  torch warns once that it is not needed.
    return DistributedDataParallel(model, find_unused_parameters=True)


def share_buffers(model: nn.Module) -> None:
    """Give every rank the first one's buffers: batch norm's running statistics are each process's own in a step."""
    if world_size() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def need_same(path: Path, found: str) -> None:
    """ValueError, on all ranks, where at `path` some find something else than the first does: `found`, in words."""
    all_found = gather_json(found)
    others = [number for number, words in enumerate(all_found) if words != all_found[0]]
    if others:
        raise ValueError(
            f"{path}: {all_found[0]} for rank 0, {all_found[others[0]]} for rank {', '.join(map(str, others))}: "
            f"{path.parent} must be on a file system that all nodes share"
        )


def need_shared(path: Path) -> None:
    """Wait for all ranks, and for the file that the first one wrote; ValueError where it is not there for another."""
    wait_for_all()
    need_same(path, "a file" if path.is_file() else "no file")


@contextmanager
def processes(device: str | None = None) -> Iterator[str | None]:
    """The process group that torchrun's environment describes, if any; yields this process's device.

    Under torchrun that is a GPU for each process where there are any, else the CPU; `device` may be "cpu" or "cuda",
    and ValueError is raised for others and for more processes than GPUs.  Without it, it is `device` itself.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield device
        return
    missing = [
        name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise ValueError(f"WORLD_SIZE is set but {', '.join(missing)} is not: start with torchrun")
    mine = _device_of_rank(device, int(os.environ["LOCAL_RANK"]))
    _end_with_launcher()
    if mine != "cpu":
        torch.cuda.set_device(mine)
    distributed.init_process_group("nccl" if mine != "cpu" else "gloo")
    yield mine
    # Not after an error: with NCCL this may wait for ranks that wait for this one.  Once the error is told and this
    # process has left, torchrun ends the others.
    distributed.destroy_process_group()


def _device_of_rank(wish: str | None, local_rank: int) -> str:
    if wish not in (None, "cpu", "cuda"):
        raise ValueError(f"--device {wish}: under torchrun give cpu, or cuda for a GPU of each process's own")
    if wish == "cpu" or (wish is None and not torch.cuda.is_available()):
        return "cpu"
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; give torchrun "
            "as many processes (--nproc-per-node), or train with --device cpu"
        )
    return f"cuda:{local_rank}"


def _end_with_launcher() -> None:
    """Linux ends this process when torchrun dies, also by SIGKILL: otherwise its ranks would train on, unattended."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)

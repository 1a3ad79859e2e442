"""Which samples make which batch, and getting them there through worker processes.

Every random choice is a function of numbers that a run records: the order of an epoch of (seed, epoch), a
sample's augmentation of (seed, epoch, index).  So batch k of a training run is a function of (seed, k)
alone: any number of worker processes gives the same batches, and a resumed run continues with the batch
that it would have had.

A training epoch consists of whole batches.  Portrait (w < h) and landscape pictures fill separate batches,
which saves padding; what either leaves over goes into common ones, and the last batch is filled up with
samples of the same epoch, so that every sample occurs at least once and a few twice.  Unshuffled, for
evaluation, every sample occurs exactly once and the last batch may be short.

Workers are started fresh (forkserver or spawn) and send samples packed, 8 bits a value and 1 bit a mask
pixel: forking a process that runs threads can hang, and shared memory is often limited to less than a
batch.  So a script that uses workers needs `if __name__ == "__main__":`.
"""

import hashlib
import math
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, cycle, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minimaskrcnn.data.coco import CocoDataset
from minimaskrcnn.data.pictures import to_float
from minimaskrcnn.data.transforms import AugmentConfig, Sample, Target, augment

Key = tuple[int, int]  # (epoch, index of the sample)


class PackedSample(NamedTuple):
    """A sample in about a sixth of its memory, without loss."""

    image: np.ndarray  # [3, h, w], uint8 where that is exact, otherwise float32
    target: dict[str, Any]  # arrays and numbers, without the masks
    mask_bits: np.ndarray | None  # uint8, eight pixels each
    mask_shape: tuple[int, int, int]  # (G, h, w)


def generator_for(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator that depends on all the numbers and on nothing else."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def epoch_batches(aspect_ratios: list[float], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of the ceil(n / batch_size) whole batches of a training epoch, a function of the arguments.

    ValueError for no samples or a batch size under 1.
    """
    if not aspect_ratios or batch_size < 1:
        raise ValueError(f"cannot make batches of {batch_size} from {len(aspect_ratios)} samples")
    generator = generator_for(seed, epoch)
    order = torch.randperm(len(aspect_ratios), generator=generator).tolist()
    batches: list[list[int]] = []
    rest: list[int] = []
    for portrait in (True, False):
        group = [i for i in order if (aspect_ratios[i] < 1) == portrait]
        whole = len(group) - len(group) % batch_size
        batches += _chunks(group[:whole], batch_size)
        rest += group[whole:]
    batches += _chunks(_filled_up(rest, order, batch_size), batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def pack(sample: Sample) -> PackedSample:
    """Without loss: pictures from 8-bit files become uint8 again, masks become bits."""
    image = sample.image.numpy()
    pixels = np.rint(image * 255).astype(np.uint8)
    if np.array_equal(to_float(pixels), image):
        image = pixels
    target = {
        key: value.numpy() if isinstance(value, Tensor) else value
        for key, value in sample.target.items()
        if key != "masks"
    }
    if "masks" not in sample.target:
        return PackedSample(image, target, None, (0, 0, 0))
    masks = sample.target["masks"].numpy()
    return PackedSample(image, target, np.packbits(masks), masks.shape)


def unpack_sample(packed: PackedSample) -> Sample:
    """The sample that was packed, in new memory."""
    target: Any = {
        key: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        for key, value in packed.target.items()
    }
    if packed.mask_bits is not None:
        bits = np.unpackbits(packed.mask_bits, count=math.prod(packed.mask_shape))
        target["masks"] = torch.from_numpy(bits.view(bool).reshape(packed.mask_shape))
    image = packed.image.copy() if packed.image.dtype == np.float32 else to_float(packed.image)
    return Sample(torch.from_numpy(image), target)


class CachedDataset(CocoDataset):
    """A small data set, read once and kept packed in memory; otherwise the same as its source."""

    def __init__(self, source: CocoDataset) -> None:
        vars(self).update(vars(source))
        self._packed = [pack(source[index]) for index in range(len(source))]

    def __getitem__(self, index: int) -> Sample:
        return unpack_sample(self._packed[range(len(self))[index]])

    def subset(self, indices: Sequence[int]) -> "CachedDataset":
        """The same data set with only these pictures, in this order."""
        fewer = super().subset(indices)
        fewer._packed = [self._packed[i] for i in indices]
        return fewer


class BatchLoader:
    """Iterates over batches of samples: (pictures `[3, h, w]`, targets), both lists.

    `batches` lists keys (epoch, index) and may be endless.  An error in a worker is raised here as it was there.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        batches: Iterable[list[Key]],
        seed: int,
        workers: int = 0,
        augment: AugmentConfig | None = None,
    ) -> None:
        workers = min(workers, _cpu_count())
        fresh = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._batches = batches
        self._loader = DataLoader(
            _AugmentedSamples(dataset, seed, augment, packed=workers > 0),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=list,
            multiprocessing_context=fresh if workers else None,
            generator=generator_for(seed),  # otherwise each pass would advance the global generator
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[Target]]]:
        for batch in self._loader:
            for item in batch:
                if isinstance(item, Exception):
                    raise item
            samples = [unpack_sample(item) if isinstance(item, PackedSample) else item for item in batch]
            yield [sample.image for sample in samples], [sample.target for sample in samples]


def make_loader(dataset: CocoDataset, *, batch_size: int, workers: int = 0) -> BatchLoader:
    """One pass over a dataset in its order, each sample once, as it is.

    Workers beyond the machine's processors are not started.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size {batch_size} must be at least 1, workers {workers} at least 0")
    return BatchLoader(dataset, _chunks([(0, index) for index in range(len(dataset))], batch_size), 0, workers)


def training_batches(
    dataset: CocoDataset,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    workers: int = 0,
    augment: AugmentConfig | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[list[Tensor], list[Target]]]:
    """Endless batches of one size, from step `start_step` on.  Batch k is a function of (seed, k).

    Of `world_size` processes each gets its share of every batch.
    """
    if batch_size % world_size:
        raise ValueError(f"a batch of {batch_size} cannot be shared by {world_size} processes")
    if batch_size < 1 or workers < 0 or start_step < 0 or not len(dataset):
        raise ValueError(
            f"batch_size {batch_size} and {len(dataset)} samples must be at least 1, "
            f"workers {workers} and start_step {start_step} at least 0"
        )
    keys = _training_keys(dataset.aspect_ratios, batch_size, seed, start_step)
    share = (batch[rank::world_size] for batch in keys)
    return iter(BatchLoader(dataset, share, seed, workers, augment))


class _AugmentedSamples(Dataset[Sample | PackedSample | Exception]):
    """Samples by (epoch, index).  A worker's error is handed on as a value: torch would wrap it in a traceback."""

    def __init__(self, source: CocoDataset, seed: int, config: AugmentConfig | None, packed: bool) -> None:
        self.source = source
        self.seed = seed
        self.config = config
        self.packed = packed

    def __getitem__(self, key: Key) -> Sample | PackedSample | Exception:
        try:
            sample = self.source[key[1]]
            if self.config:
                sample = augment(sample, self.config, generator_for(self.seed, *key))
            return pack(sample) if self.packed else sample
        except (ValueError, OSError) as error:
            return error


def _training_keys(
    aspect_ratios: list[float], batch_size: int, seed: int, start_step: int
) -> Iterator[list[Key]]:
    first_epoch, skip = divmod(start_step, -(-len(aspect_ratios) // batch_size))
    for epoch in count(first_epoch):
        for batch in epoch_batches(aspect_ratios, batch_size, seed, epoch)[skip:]:
            yield [(epoch, index) for index in batch]
        skip = 0


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _filled_up(rest: list[int], order: list[int], batch_size: int) -> list[int]:
    """`rest`, and as many more of `order` as make whole batches; none twice in a batch if there are enough."""
    missing = -len(rest) % batch_size
    last = set(rest[len(rest) + missing - batch_size :]) if missing else set()
    others = [i for i in order if i not in last]
    return rest + list(islice(cycle(others or order), missing))


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

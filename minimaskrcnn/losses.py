"""A loss before it is divided: a sum and a count.

Every loss of the network is a mean over samples.  Where several processes share a batch, the gradient is that of one
process only if all of them divide by the same count, that of the whole batch.  So a loss is a sum and a count here,
and the network divides, once and for all of its losses (`distributed.shared_means`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A sum over samples, and their number, which may be zero."""

    sum: Float[Tensor, ""]
    count: Int[Tensor, ""]

    @property
    def mean(self) -> Float[Tensor, ""]:
        """The sum over the count; zero where there is nothing to count."""
        return self.sum / self.count.clamp(min=1)


def full_precision(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half-precision tensors as float32, others as they are: losses and boxes are never computed in half."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

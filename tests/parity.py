"""What the parity tests share: torchvision or a reason to skip, and how near is equal."""

from types import ModuleType

import torch
from optional import need
from torch import Tensor

# The one table of tolerances, for inputs of magnitude about 1: (relative, absolute).  Half precision is a rounding of
# results that are computed in float32, so its tolerance is one unit in the last place.
TOLERANCE = {
    torch.float64: (1e-10, 1e-10),
    torch.float32: (1e-5, 1e-5),
    torch.float16: (1e-3, 1e-3),
    torch.bfloat16: (8e-3, 8e-3),
}


def torchvision() -> ModuleType:
    """The oracle.  Skips the test where it does not import, unless REQUIRE_PARITY=1, where it fails it."""
    return need("torchvision", "models.detection")


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal shapes, NaN in the same places, values within the tolerance of `actual`'s dtype."""
    relative, absolute = TOLERANCE[actual.dtype]
    torch.testing.assert_close(
        actual, expected.to(actual.dtype), rtol=relative, atol=absolute, equal_nan=True, check_stride=False
    )

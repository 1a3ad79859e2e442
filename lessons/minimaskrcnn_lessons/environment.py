"""The first cell of every lesson: is everything there, and if not, what to type."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

# Imported by the lessons' cells; the extra `lessons` of pyproject.toml installs them all.
NEEDED = ("torch", "numpy", "pillow", "matplotlib", "hypothesis", "ipywidgets", "anywidget", "pycocotools")
REMEDY = (
    "in a terminal, in the folder of the checkout: make lessons   (or: python -m pip install -e '.[lessons]')"
)


def setup() -> None:
    """Print versions and the device; for whatever is missing, the remedy.  Makes random numbers repeatable.

    Where there is no GPU it turns on Triton's interpreter, so that kernels run on the CPU.  Triton reads that when a
    kernel is defined, so this comes before their import.
    """
    missing = [name for name in NEEDED if _version(name) is None]
    if missing:
        print(f"Missing: {', '.join(missing)}.  To install them, {REMEDY}")
        print(f"Then restart the kernel.  This one is {sys.executable}")
        return
    import torch

    from minimaskrcnn_lessons import style

    torch.manual_seed(0)
    style.use()
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, minimaskrcnn {_version('minimaskrcnn')}"
    )
    if torch.cuda.is_available():
        print(f"Device: {torch.cuda.get_device_name()}")
        return
    print(f"Device: the CPU, {torch.get_num_threads()} threads; no GPU is needed")
    if _version("triton") is None:
        print("Triton is not installed (it exists for Linux): cells that need it say so and are passed over")
    elif os.environ.setdefault("TRITON_INTERPRET", "1") == "1":
        print(f"Triton {_version('triton')}: its interpreter runs the kernels on the CPU")
        if _release("triton") < (3, 7) and _release("numpy") >= (2, 4):
            print("Before 3.7 that interpreter cannot run loops with NumPy 2.4: python -m pip install 'numpy<2.4'")


def _release(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version(package).split(".")[:2])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""The device that a run computes on, chosen by name and described in words."""

import torch


def choose_device(name: str | None) -> torch.device:
    """The device called `name`, or a GPU where there is one; ValueError for one that does not compute here."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        probe = torch.zeros(1, device=name)
        probe.item()  # a device that cannot compute, such as meta, says so here
        return probe.device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error


def describe_device(device: torch.device) -> str:
    """The GPU's name, or the CPU's number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} ({torch.get_num_threads()} threads)"

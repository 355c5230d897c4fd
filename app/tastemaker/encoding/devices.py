"""Where a network computes: the processor, or a GPU of this machine."""

from tastemaker.errors import Invalid


def usual_device() -> str:
    """Where a network computes unless one says otherwise: a GPU of NVIDIA or Apple if there is one,
    else the processor."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def validate_device(name: str) -> str:
    """A device as torch names it: `cpu`, `cuda`, `cuda:1`, `mps`. Raises `Invalid` for one that
    this machine does not have."""
    import torch

    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    wanted = name.strip().lower()
    if wanted not in there and f"{wanted}:0" not in there:
        raise Invalid(f"There is no device “{name}” here.", f"There are: {', '.join(there)}.")
    return wanted

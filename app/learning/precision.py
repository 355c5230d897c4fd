"""Which numbers this machine multiplies fastest."""

from __future__ import annotations

import functools

import torch


@functools.cache
def matrix_type() -> torch.dtype:
    """The number format for large matrix products: bfloat16 where the processor has it.

    Elsewhere torch takes bfloat16 apart number by number, which is slower than float32 by a factor
    of five and more; a great many desktop processors are of that kind.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return torch.bfloat16 if supported is not None and supported() else torch.float32

"""Which numbers this machine multiplies fastest."""

from __future__ import annotations

import functools

import torch


@functools.cache
def matrix_type() -> torch.dtype:
    """The number format for large matrix products: bfloat16 where the processor has it.

    Elsewhere torch takes bfloat16 apart number by number: with AVX2 alone, products took three to
    five times as long as in float32 (docs/decisions/0016).
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return torch.bfloat16 if supported is not None and supported() else torch.float32

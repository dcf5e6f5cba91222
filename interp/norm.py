"""The norms of a model on a GPU, each as one kernel (`interp.norm_kernel`), where Triton is installed."""

from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from torch import Tensor


def fuse_norms(model: Any) -> None:
    """Let every Gemma 3 RMS norm of `model` run as one kernel; one on the CPU, or that is trained, runs as before."""
    if find_spec("triton") is None:
        return
    for module in model.modules():
        if type(module).__name__ == "Gemma3RMSNorm":
            module.forward = MethodType(_norm, module)


def _norm(module: Any, x: Tensor) -> Tensor:
    if not x.is_cuda or module.weight.requires_grad or x.numel() == 0:
        return type(module).forward(module, x)
    from interp.norm_kernel import RmsNorm

    # Queries and keys come with heads and positions exchanged: their memory is left as it is.
    exchanged = x.dim() == 4 and not x.is_contiguous() and x.transpose(1, 2).is_contiguous()
    rows = x.transpose(1, 2) if exchanged else x.contiguous()
    # Triton launches on the current GPU, which is not this one where a model is split over several.
    with torch.cuda.device(x.device):
        y = RmsNorm.apply(rows, module.weight, module.eps)
    return y.transpose(1, 2) if exchanged else y

"""What a GPU's libraries load and plan when they are first used, done in a thread while the host imports and reads."""

from contextlib import suppress
from threading import Lock, Thread

import torch

_LOADING = Lock()
"""Held while torch loads its linear algebra for GPUs."""


def use_libraries(device: torch.device, dtype: torch.dtype) -> None:
    """Begin to load cuBLAS, cuDNN's attention and cuSOLVER on a GPU, 0.7 s on an H200; nothing on a CPU.

    The search's own first calls then find them loaded. They need no interpreter, while imports need little else.
    """
    if device.type == "cuda":
        Thread(target=_use, args=(device, dtype), daemon=True).start()


def load_linear_algebra(device: torch.device) -> None:
    """Let torch load its linear algebra for GPUs, so that several threads may use it; nothing on a CPU.

    torch does so at the first call, and raises RuntimeError if two threads make it at the same time.
    """
    if device.type == "cuda":
        with _LOADING:
            torch.linalg.cholesky_ex(torch.eye(2, device=device))


def _use(device: torch.device, dtype: torch.dtype) -> None:
    # Whoever needs what fails here reports it.
    with suppress(RuntimeError), torch.no_grad():
        square = torch.eye(64, device=device, dtype=dtype)
        heads = square.expand(1, 8, 64, 64).contiguous()
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        for each in (dtype, torch.float32, torch.float64):
            square.to(each) @ square.to(each)
        load_linear_algebra(device)
        torch.linalg.eigh(square.double())
        torch.linalg.solve_triangular(torch.linalg.cholesky_ex(square.double())[0], square.double(), upper=False)

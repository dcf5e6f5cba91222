"""What a GPU's libraries load and plan when they are first used, done in a thread while the host imports and reads."""

from contextlib import suppress
from threading import Thread

import torch


def use_libraries(device: torch.device, dtype: torch.dtype) -> None:
    """Begin to load cuBLAS, cuDNN's attention and cuSOLVER on a GPU, 0.7 s on an H200; nothing on a CPU.

    The search's own first calls then find them loaded. They need no interpreter, while imports need little else.
    """
    if device.type == "cuda":
        Thread(target=_use, args=(device, dtype), daemon=True).start()


def _use(device: torch.device, dtype: torch.dtype) -> None:
    # Whoever needs what fails here reports it.
    with suppress(RuntimeError), torch.no_grad():
        square = torch.eye(64, device=device, dtype=dtype)
        heads = square.expand(1, 8, 64, 64).contiguous()
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        for each in (dtype, torch.float32, torch.float64):
            square.to(each) @ square.to(each)
        torch.linalg.eigh(square.double())
        torch.linalg.solve_triangular(torch.linalg.cholesky_ex(square.double())[0], square.double(), upper=False)

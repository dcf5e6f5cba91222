"""The first use of a GPU's libraries and of our kernels, early and in threads, because they load and compile then.

A process that ends waits for these threads, because ending one inside a library would abort the process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from threading import Lock, Thread

import torch

from interp.model.kernel_calls import kernel_calls
from interp.model.kernel_launchers import load_launchers_apart
from interp.model.shape import ModelShape
from interp.runtime.prefetch import map_ahead

_LOADING = Lock()
"""Held while torch loads its linear algebra for GPUs."""


def use_libraries(device: torch.device, dtype: torch.dtype) -> None:
    """Begin to load cuBLAS, cuDNN's attention and cuSOLVER on a GPU, 0.7 s on an H200, and to hash Triton.

    Nothing on a CPU. It goes on beside the imports of a command, because neither holds the interpreter.
    """
    if device.type == "cuda":
        for call in (_hash_triton, partial(_call_libraries, device, dtype)):
            Thread(target=_quietly, args=(device, call)).start()


@contextmanager
def kernels_loaded(shape: ModelShape, device: torch.device, dtype: torch.dtype, learns: bool) -> Iterator[None]:
    """While open, load our kernels for a model of this shape (`interp.model.fused`); nothing on a CPU.

    `learns` says whether gradients will pass through whole rows of the language model.

    Triton takes 0.7 s on an H200 to find compiled kernels, and at the first use on a machine 1 to 3 s to compile each,
    here at the same time. They are loaded when it closes: two threads that launch a kernel for the first time at the
    same time may find it half loaded.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        yield
        return
    loading = Thread(target=_load_kernels, args=(shape, device, dtype, learns))
    loading.start()
    try:
        yield
    finally:
        loading.join()


def load_linear_algebra(device: torch.device) -> None:
    """Let torch load its linear algebra for GPUs, so that several threads may use it; nothing on a CPU.

    torch does so at the first call, and raises RuntimeError if two threads make it at the same time.
    """
    if device.type == "cuda":
        with _LOADING:
            torch.linalg.cholesky_ex(torch.eye(2, device=device))


def _load_kernels(shape: ModelShape, device: torch.device, dtype: torch.dtype, learns: bool) -> None:
    load_launchers_apart()
    first, *others = kernel_calls(shape, device, dtype, learns)
    # Which loads Triton itself, for all.
    _quietly(device, first)
    list(map_ahead(partial(_quietly, device), others, len(others)))


def _hash_triton() -> None:
    """Let Triton hash its 415 MB, by which it names compiled kernels, 0.3 s; it keeps the hash."""
    from triton.runtime.cache import triton_key

    triton_key()


def _quietly(device: torch.device, call: Callable[[], None]) -> None:
    """Make a call on a GPU. Whoever needs what fails there reports it."""
    with suppress(Exception), torch.cuda.device(device):
        call()


@torch.no_grad()
def _call_libraries(device: torch.device, dtype: torch.dtype) -> None:
    square = torch.eye(64, device=device, dtype=dtype)
    heads = square.expand(1, 8, 64, 64).contiguous()
    torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
    for each in (dtype, torch.float32, torch.float64):
        square.to(each) @ square.to(each)
    load_linear_algebra(device)
    torch.linalg.eigh(square.double())
    torch.linalg.solve_triangular(torch.linalg.cholesky_ex(square.double())[0], square.double(), upper=False)

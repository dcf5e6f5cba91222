"""The first use of a GPU's libraries and of our kernels, early and in threads, because they load and compile then.

A process that ends waits for these threads, because ending one inside a library would abort the process.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from threading import Lock

import torch

from interp.model.shape import ModelShape

_LOADING = Lock()
"""Held while torch loads its linear algebra for GPUs."""


def use_libraries(device: torch.device, dtype: torch.dtype) -> None:
    """Begin to load cuBLAS, cuDNN's attention and cuSOLVER on a GPU, 0.7 s on an H200; nothing on a CPU.

    It goes on beside the imports of a command, because loading a library does not hold the interpreter.
    """
    if device.type == "cuda":
        _begin(device, [partial(_call_libraries, device, dtype)])


def use_kernels(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> None:
    """Begin to load our kernels for a model of this shape (`interp.model.fused`); nothing on a CPU.

    Triton takes 0.7 s on an H200 to find compiled kernels, and at the first use on a machine 1 to 3 s to compile each.
    They are compiled at the same time, while weights are copied to the GPU.
    """
    if device.type == "cuda" and find_spec("triton") is not None:
        _begin(device, _kernel_calls(shape, device, dtype))


def load_linear_algebra(device: torch.device) -> None:
    """Let torch load its linear algebra for GPUs, so that several threads may use it; nothing on a CPU.

    torch does so at the first call, and raises RuntimeError if two threads make it at the same time.
    """
    if device.type == "cuda":
        with _LOADING:
            torch.linalg.cholesky_ex(torch.eye(2, device=device))


def _begin(device: torch.device, calls: list[Callable[[], object]]) -> None:
    """Make some calls on a GPU in a thread each. Whoever needs what fails there reports it."""

    def quietly(call: Callable[[], object]) -> None:
        with suppress(Exception), torch.cuda.device(device):
            call()

    threads = ThreadPoolExecutor(len(calls))
    for call in calls:
        threads.submit(quietly, call)
    threads.shutdown(wait=False)


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


def _kernel_calls(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> list[Callable[[], object]]:
    """A call of every kernel, forward and backward, at the model's widths: Triton compiles a variant for each."""

    def norm(width: int) -> None:
        from interp.model.triton_kernels.norm import RmsNorm

        x = torch.ones(16, width, device=device, dtype=dtype, requires_grad=True)
        RmsNorm.apply(x, torch.ones(width, device=device, dtype=dtype), 1e-6).sum().backward()

    def residual_norm(added: bool, follows: bool) -> None:
        from interp.model.triton_kernels.residual_norm import ResidualNorm

        x = torch.ones(16, shape.width, device=device, dtype=dtype, requires_grad=True)
        weight = x.detach()[0]
        given = (x if added else None, x, weight if added else None, weight if follows else None)
        total, normed = ResidualNorm.apply(*given, 1e-6)
        (total if normed is None else total + normed).sum().backward()

    def gelu() -> None:
        from interp.model.triton_kernels.gelu import GatedGelu

        x = torch.ones(16, shape.mlp, device=device, dtype=dtype, requires_grad=True)
        GatedGelu.apply(x, x).sum().backward()

    def rotary(heads: int) -> None:
        from interp.model.triton_kernels.rotary import Rotary

        x = torch.ones(1, 16, heads, shape.head, device=device, dtype=dtype, requires_grad=True)
        angle = torch.ones(1, 16, shape.head, device=device, dtype=dtype)
        Rotary.apply(x.transpose(1, 2), angle, angle).sum().backward()

    def tower_norm() -> None:
        from interp.model.triton_kernels.layer_norm import layer_norm

        x = torch.ones(16, shape.tower_width, device=device, dtype=dtype)
        with torch.no_grad():
            own = torch.nn.LayerNorm(shape.tower_width, device=device, dtype=dtype)
            layer_norm(x, own)
            layer_norm(x, own, x)

    def tower_attention() -> None:
        from interp.model.tower_attention import D_HEAD, STEP, fits_tower

        fits_tower(torch.ones(1, 1, STEP, D_HEAD, device=device, dtype=dtype), None)

    return [
        tower_attention,
        tower_norm,
        gelu,
        *(partial(norm, width) for width in {shape.width, shape.head}),
        *(partial(residual_norm, *parts) for parts in ((False, True), (True, True), (True, False))),
        *(partial(rotary, heads) for heads in {shape.heads, shape.kv_heads}),
    ]

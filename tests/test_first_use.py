"""What is loaded early, in threads, is loaded when it has to be; the kernels themselves need a GPU (test_fused)."""

import math
import os
import sys
import threading
import time
from contextlib import nullcontext

import pytest
import torch

from interp.model import first_use
from interp.model.first_use import kernels_loaded
from interp.runtime import gpu_start
from interp.runtime.gpu_start import begin_gpu
from interp.runtime.threads import TURN_BESIDE_GPU


def test_all_kernels_are_loaded_when_the_block_ends_and_the_first_before_the_others(monkeypatch):
    loaded, first_was_there = [], []

    def slowly(name):
        first_was_there.append("first" in loaded)
        time.sleep(0.05)
        loaded.append(name)

    def wrong():
        raise RuntimeError("no compiler")

    calls = [lambda: slowly("first"), wrong, lambda: slowly("second"), lambda: slowly("third")]
    monkeypatch.setattr(first_use, "find_spec", lambda name: name)
    # Triton is not installed everywhere.
    monkeypatch.setattr(first_use, "load_launchers_apart", lambda: None)
    monkeypatch.setattr(first_use, "kernel_calls", lambda *_: calls)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    with (
        pytest.raises(ValueError, match="of the block"),
        kernels_loaded(None, torch.device("cuda"), torch.bfloat16, True),
    ):
        raise ValueError("of the block")
    assert sorted(loaded) == ["first", "second", "third"]
    assert first_was_there == [False, True, True]


def test_a_cpu_has_no_kernels_to_load(monkeypatch):
    monkeypatch.setattr(first_use, "kernel_calls", lambda *_: pytest.fail("asked for kernels"))
    with kernels_loaded(None, torch.device("cpu"), torch.float32, True):
        pass


@pytest.fixture
def _turns():
    turn = sys.getswitchinterval()
    yield
    sys.setswitchinterval(turn)


@pytest.mark.usefixtures("_turns")
@pytest.mark.parametrize(
    ("device", "processes", "file", "visible", "library", "begun"),
    [
        ("auto", "1", "there", "0", "__init__.py", True),
        ("cuda", "1", "there", "3,1", "__init__.py", True),
        ("auto", "1", "absent", "0", "__init__.py", False),
        ("cpu", "1", "there", "0", "__init__.py", False),
        ("cuda:1", "1", "there", "0", "__init__.py", False),
        ("auto", "2", "there", "0", "__init__.py", False),
        ("auto", "1", "there", "", "__init__.py", False),
        ("auto", "1", "there", "0", "lib/of_no_torch.so", False),
    ],
)
def test_the_driver_is_started_for_the_first_gpu_of_a_single_process(
    tmp_path, monkeypatch, device, processes, file, visible, library, begun
):
    (tmp_path / "there").touch()
    opened = threading.Event()
    monkeypatch.setattr(gpu_start, "CONTROL", tmp_path / file)
    monkeypatch.setattr(gpu_start, "LIBRARY", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(gpu_start.ctypes, "CDLL", lambda name: opened.set())
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    begin_gpu(device)
    assert opened.wait(10 if begun else 0.05) == begun
    assert os.environ.get("OMP_NUM_THREADS") == ("2" if begun else None)
    assert math.isclose(sys.getswitchinterval(), TURN_BESIDE_GPU) == begun


@pytest.mark.usefixtures("_turns")
def test_a_number_of_threads_that_the_user_has_set_is_kept(monkeypatch):
    monkeypatch.setattr(gpu_start, "_has_gpu", lambda: True)
    monkeypatch.setattr(gpu_start, "DRIVER", "libabsent.so.1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    begin_gpu("auto")
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_machine_without_the_driver_is_no_error(monkeypatch):
    monkeypatch.setattr(gpu_start, "DRIVER", "libabsent.so.1")
    gpu_start._start()

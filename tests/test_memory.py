"""A run with little memory finds the same as one with much, and uses an unnamed file for what does not fit."""

import os
import resource
import signal
import tempfile

import psutil
import pytest
import torch

from interp.measurement.residual_store import empty_residuals
from interp.model.load import limit_image_tokens, load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.runtime.errors import InputError
from interp.runtime.memory import GIB, free_in_group, memory_left
from interp.saes.locate import locate_saes
from interp.search.find import find_features
from interp.search.settings import FindSettings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def questions():
    return load_questions(WORLD / "questions.jsonl", split="train")[:150]


def test_memory_that_is_left():
    rss = psutil.Process().memory_info().rss
    assert memory_left(CPU, rss / GIB / 2).host == 0
    assert memory_left(CPU, rss / GIB + 0.25).host == pytest.approx(GIB / 4, abs=GIB / 50)
    assert 0 < memory_left(CPU).host <= psutil.virtual_memory().total


def test_a_schedulers_limit_counts(tmp_path, monkeypatch):
    assert free_in_group(tmp_path) is None
    (tmp_path / "memory.stat").write_text("anon 300\nfile 900\nshmem 50\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_in_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert free_in_group(tmp_path) == 650
    monkeypatch.setattr("interp.runtime.memory.control_group", lambda: tmp_path)
    assert memory_left(CPU).host == 520


def test_images_that_fit(tiny_model):
    vlm = load_vlm(tiny_model, "cpu", "float32")
    tokens = vlm.model.config.mm_tokens_per_image
    limit_image_tokens(vlm, 10 * tokens * vlm.d_model * 4 + 5)
    assert vlm.max_images == 10
    limit_image_tokens(vlm, 0)
    assert vlm.max_images == 1


def test_little_memory_changes_no_result(questions):
    found = []
    for max_memory in (None, 0.001):
        vlm = load_vlm(WORLD / "planted", "cpu", "float32")
        if max_memory:
            limit_image_tokens(vlm, 0)
        settings = FindSettings(min_flips=1)
        result = find_features(vlm, locate_saes(WORLD / "saes"), questions, settings=settings, max_memory=max_memory)
        found.append(result)
    much, little = (result.table() for result in found)
    assert found[0].artifact.data == found[1].artifact.data
    for column in ("flip_auc", "recovery", "random_patch", "net_write", "feature_patch", "r2"):
        torch.testing.assert_close(
            torch.tensor(little[column].to_numpy(float)), torch.tensor(much[column].to_numpy(float)), atol=2e-4, rtol=0
        )
    assert found[0].artifact.data.flip_bank > 5


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system takes room only as it is written to")
def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(InputError, match="there is no room to write it"):
            empty_residuals([3, 4], 1000, 6, torch.bfloat16, max_bytes=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = empty_residuals([3, 4], 5, 6, torch.bfloat16, max_bytes=100)
    assert list(tmp_path.iterdir()) == []
    kept.values.fill_(2.5)
    assert kept.after(4).dtype == torch.bfloat16
    assert (kept.after(4) == 2.5).all()

"""Shared fixtures: a tiny random Gemma 3 model for exact comparisons, and the shipped world for behaviour."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_weights import save_random

from interp.paths import WORLD

LONGEST = ("second_world", "processes", "notebooks", "plant", "finetune_validation", "trackers", "world")
"""Test files of half a minute and more. They run first, so that no process waits for the last one of the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # pytest-xdist's workers share the cores.
    torch.set_num_threads(1)


@pytest.fixture
def called(monkeypatch, capsys):
    """Run a command in this process: `called("finetune", "evaluate", ...)` returns (exit code, stdout, stderr)."""

    def call(command, *arguments):
        cli = importlib.import_module(f"{command}.cli.app")
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of a random 4-layer model, saved by transformers, whose sliding window is shorter than its prompts."""
    from interp.demo.model import build_model, train_tokenizer
    from interp.demo.phrasings import all_texts
    from interp.demo.sample_cases import ANSWERS

    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = train_tokenizer(all_texts(), ANSWERS)
    model = build_model(tokenizer, 64, layers=4, width=32, seed=0)
    model.config.text_config.sliding_window = 12
    return save_random(model, tokenizer, folder)


@pytest.fixture(scope="session")
def tiny_saes(tmp_path_factory) -> Path:
    """Folder of a random SAE for each layer of `tiny_model`, with 24 features that are active at only some tokens."""
    from interp.saes.sae import Sae, save_sae

    folder = tmp_path_factory.mktemp("tiny-saes")
    generator = torch.Generator().manual_seed(1)
    for layer in range(4):
        w_enc, w_dec = (torch.randn(shape, generator=generator) for shape in ((32, 24), (24, 32)))
        b_enc, threshold = torch.randn(24, generator=generator), torch.rand(24, generator=generator) * 2
        sae = Sae(layer, "", w_enc / 4, b_enc, w_dec, torch.zeros(32), threshold)
        save_sae(sae, folder / f"layer_{layer}_width_16k_l0_small", "tiny", torch.float32)
    return folder


@pytest.fixture
def own_data(tmp_path) -> Path:
    """Folder with six images and twelve handwritten questions, as a user would bring them."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows = []
    for patient in range(6):
        Image.fromarray(rng.integers(0, 255, (80, 70), dtype=np.uint8)).save(tmp_path / "images" / f"{patient}.png")
        for k, answer in enumerate(("yes", "no")):
            rows.append(
                {
                    "id": f"{patient}-{k}",
                    "image": f"images/{patient}.png",
                    "patient": f"p{patient}",
                    "type": "presence",
                    "question": "Is there a nodule?" if k else "Is there radiographic evidence of pneumothorax?",
                    "answer": answer,
                    "paraphrases": [
                        {"text": "Any nodule here?", "phenomenon": "lexical_substitution", "register": "casual"},
                        {"text": "Do you see it in this pic at all, or is it not there?"},
                    ],
                }
            )
    write_rows(tmp_path / "questions.jsonl", rows)
    return tmp_path


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def world() -> dict:
    return json.loads((WORLD / "world.json").read_text())

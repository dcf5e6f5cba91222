"""A tiny world whose texts, ids, patients and images are recognizable, and every command, audited, on that world."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from dicoms import write_dicom
from finetune_world import make_world
from layers_files import layers_document
from matplotlib import get_cachedir
from PIL import Image

from interp.saes.sae import Sae, save_sae

CANARY = "canary"
"""Occurs in every text, id, patient and image name of the world, and nowhere else."""


class Ran(NamedTuple):
    """The outcome of one command."""

    command: list[str]
    code: Any
    out: str
    errors: str
    noted: list[str]
    """Forbidden actions that the command took."""


class Runs(NamedTuple):
    """The outcomes of all commands on the world."""

    ran: dict[str, Ran]
    """Name of a command -> its outcome."""
    world: Path
    """Folder of the world's questions, images, model and SAEs, where canaries are allowed."""
    out: Path
    """Folder of everything that the commands wrote."""


def make_canaries(folder: Path) -> None:
    """Write questions, images, DICOM files, model and SAEs; every string of the questions but labels has the canary."""
    torch.set_num_threads(1)
    world = make_world(folder, patients=8, layers=2)
    rows = [json.loads(line) for line in world.questions.read_text().splitlines()]
    for i, row in enumerate(rows):
        name = f"images/{CANARY}-image-{row['patient'][7:]}.png"
        if not (folder / name).exists():
            (folder / row["image"]).rename(folder / name)
        row |= {"id": f"{CANARY}-id-{i}", "image": name, "patient": f"{CANARY}-patient-{row['patient'][7:]}"}
        row["question"] = f"{row['question'][:-1]}, {CANARY}-question?"
        for k, paraphrase in enumerate(row["paraphrases"]):
            paraphrase |= {
                "text": f"{paraphrase['text'][:-1]} {CANARY}-wording-{k}?",
                "register": ["formal", "casual"][k % 2],
            }
        if row["type"] == "presence":
            row["answer"], row["boxes"] = "yes", [[4, 4, 20, 20]]
    write(world.questions, rows)
    # A published data set with a file that is not an image and a damaged DICOM file that contains canaries.
    write_dicom(folder / "images" / f"{CANARY}-scan.dcm", np.arange(400).reshape(20, 20))
    spoilt = write_dicom(folder / "images" / f"{CANARY}-spoilt.dcm", np.arange(400).reshape(20, 20))
    content = spoilt.read_bytes().replace(b"Doe^Jane", b"canary^x").replace(b"MONOCHROME2 ", b"canary     1")
    spoilt.write_bytes(content[:-200])
    (folder / "images" / f"{CANARY}-broken.png").write_bytes(Image.new("L", (9, 9)).tobytes())
    published = [
        {
            "question_id": f"{CANARY}-id-{i}",
            "original_question": f"Is there a {CANARY}-nodule?",
            "paraphrases": [{"text": f"Any {CANARY}-nodule?"}, {"text": f"Can a {CANARY}-nodule be ruled out?"}],
            "filename": f"images/{name}",
            "subject_id": f"{CANARY}-patient-{i}",
            "split": f"{CANARY}-split",
            "answer": f"{CANARY}-answer" if i == 3 else "yes",
            "type": "presence",
        }
        for i, name in enumerate(
            [
                f"{CANARY}-image-0.png",
                f"{CANARY}-scan.dcm",
                f"{CANARY}-spoilt.dcm",
                f"{CANARY}-image-1.png",
                f"{CANARY}-broken.png",
            ]
        )
    ]
    (folder / "published.json").write_text(json.dumps(published))
    bad = [dict(rows[0]) for _ in range(3)]
    write(folder / "twice.jsonl", bad)
    write(folder / "answer.jsonl", [rows[0] | {"type": "presence", "answer": f"{CANARY}-answer"}])
    write(folder / "absent.jsonl", [rows[0] | {"image": f"images/{CANARY}-absent.png"}])
    write(
        folder / "split.jsonl",
        [rows[0] | {"split": "train"}, rows[1] | {"split": "test", "patient": rows[0]["patient"]}],
    )
    write(folder / "unreadable.jsonl", [rows[0] | {"image": f"images/{CANARY}-broken.png"}])
    write(folder / "dicom.jsonl", [rows[0] | {"image": f"images/{CANARY}-spoilt.dcm"}])
    write(folder / "box.jsonl", [row | {"boxes": [[90, 90, 99, 99]]} for row in rows if row["type"] == "presence"])
    (folder / "damaged.jsonl").write_text(json.dumps(rows[0])[:-20] + "\n")
    generator = torch.Generator().manual_seed(0)
    for layer in range(2):
        shapes = ((32, 64), (64,), (64, 32), (32,))
        parts = [torch.randn(shape, generator=generator) for shape in shapes]
        save_sae(Sae(layer, "", *parts, torch.zeros(64)), folder / "saes" / f"layer_{layer}_width_16k_l0_small", "m")


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def commands(world: Path, out: Path) -> dict[str, list[str]]:
    """Return name -> command line: every command, and mistakes whose messages name rows."""
    run, own = out / "run", out / "own"
    model, saes = f"--model {world}/model", f"--saes {world}/saes"
    asked = f"--questions {world}/questions.jsonl --device cpu"
    short = "--epochs 1 --rank 2 --limit 6"
    lines = {
        "import": f"interp import-questions {world}/published.json --format psf-med --images {world} "
        f"--out {own}/imported.jsonl",
        "import again": f"interp import-questions {world}/questions.jsonl --format jsonl --images {world} "
        f"--out {own}/again.jsonl",
        "paraphrase": f"interp paraphrase {own}/imported.jsonl --images {world} --out {own}/more.jsonl",
        "find": f"interp find-features {model} {saes} {asked} --split all --out {run} --keep-items",
        "verify": f"interp verify {run} {model} {saes} {asked} --sample 4",
        "transfer": f"interp transfer-check {model} {saes} {asked} --limit 4 --out {out}/transfer.json",
        "feature": f"interp test-feature 1:5 {model} {saes} {asked} --split all --out {run}/feature",
        "train": f"finetune --layers 1 {short} {model} {asked} --out {run}/adapter",
        "evaluate": f"finetune evaluate {run}/adapter --clamp 1:3 {saes} {asked} --limit 12 "
        f"--out {run}/evaluation.json --figure {run}/evaluation.png --keep-items",
        "compare": f"interp compare {run}/evaluation.json {run}/evaluation.json --out {run}/comparison",
        "verify adapter": f"finetune verify {run}/adapter {asked} --limit 6",
        "grounding": f"finetune grounding {run}/adapter --maps attention,occlusion {asked} --limit 2 "
        f"--out {run}/grounding",
        "ablate": f"finetune ablate --layers-from {out}/layers.json --arms window --seeds 0 {short} {model} {asked} "
        f"--out {run}/ablation",
        "push": f"finetune push {run}/adapter me/mine --base-model google/medgemma-4b-it",
        "figures": f"interp figures {run}",
        "report": f"interp report {run} --out {out}/report.html",
        "scrub": f"interp scrub {run} --questions {world}/questions.jsonl",
        "scrub own": f"interp scrub {world} --questions {world}/questions.jsonl",
        "bad box": f"finetune grounding {model} --questions {world}/box.jsonl --split all --device cpu",
        "bad import": f"interp import-questions {world}/damaged.jsonl --format jsonl --images {world} --out {out}/none",
        "bad model": f"finetune --layers 1 --model {world}/saes {asked} --out {out}/none",
    }
    for name in ("twice", "answer", "absent", "split", "unreadable", "dicom", "damaged"):
        file = f"--questions {world}/{name}.jsonl --device cpu --split all"
        lines[f"bad {name}"] = f"interp find-features {model} {saes} {file} --out {out}/none"
    return {name: shlex.split(line) for name, line in lines.items()}


def run_all(folder: Path) -> Runs:
    """Make the world and run the commands on it in one audited process, which may reach the network."""
    world, out, work = folder / "world", folder / "out", folder / "work"
    make_canaries(world)
    for place in (out, work, folder / "temp", folder / "cache"):
        place.mkdir()
    # An ablation needs a gate, which a random model does not have.
    (out / "layers.json").write_text(json.dumps(layers_document("model", 2, 32)))
    # Modules in the working folder must not be imported in place of the packages whose names they have.
    for name in ("yaml", "peft", "json", "interp", "report", "sitecustomize", "torchvision"):
        (work / f"{name}.py").write_text("raise SystemExit('imported from the working folder')\n")
    named = commands(world, out)
    (folder / "commands.json").write_text(json.dumps(list(named.values())))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "PYTHON"))}
    environment |= {
        **{name: str(folder / "temp") for name in ("TMPDIR", "TEMP", "TMP")},
        **{name: str(folder / "cache") for name in ("HF_HOME", "TORCHINDUCTOR_CACHE_DIR")},
        "MPLCONFIGDIR": get_cachedir(),
        **{"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"},
    }
    allowed = [out, folder / "temp", folder / "cache", get_cachedir()]
    ended = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("watched.py"),
            folder / "commands.json",
            folder / "record.json",
            *allowed,
        ],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    ran = [Ran(**each) for each in json.loads((folder / "record.json").read_text())]
    return Runs(dict(zip(named, ran, strict=True)), world, out)

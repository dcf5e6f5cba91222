"""Two processes of `accelerate launch` find the same as one, and both stop when one of them fails."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from finetune_world import make_world
from safetensors.torch import load_file, save_file
from test_ablate_statistics import profile_of
from test_finetune_cli import layers_json

from finetune.ablation.run import ablate_saved
from finetune.ablation.settings import AblationSettings
from finetune.lora.settings import TrainSettings
from interp.images.decode import NO_IMAGE
from interp.measurement.generate import generate
from interp.measurement.margins import measure
from interp.model.image_token_file import encode_into_file
from interp.model.load import load_vlm
from interp.model.placement import balanced_device_map
from interp.model.spec import ModelSpec
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.spec import DataSpec
from interp.questions.tables import prompt_table
from interp.runtime.distributed import ALONE, Team
from interp.search.find import find_features
from interp.storage.checkpoint import NO_CHECKPOINT

FIND = {"layers": [3, 4, 5, 6, 7], "batch_tokens": 3000}
ABLATION = AblationSettings(TrainSettings(rank=2, alpha=4, epochs=1, lr=0.005), (0,), ("window", "all"))

LAUNCHED = """
import json, os, signal, sys
from pathlib import Path
import pandas as pd, torch
sys.path.insert(0, {tests!r})
import finetune.ablation.run as run
from interp.search import stages
from interp.storage import prompt_parts
from interp.storage.checkpoint import Checkpoint
from interp.runtime.distributed import is_first_to_report, shut_down, team_on
from test_processes import ablate, found_in, one_layer, pictures, said_by, search

what, folder = sys.argv[1], Path(sys.argv[2])
rank = int(os.environ["RANK"])
if what == "die" and rank == 1:
    run.write_answers = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if what == "whole":
    team = team_on("cpu")
    exact = torch.tensor([0.1, 1e-30, 3.0]) if rank else torch.zeros(3)
    own = torch.full((rank + 1, 2), 0.3 + rank, dtype=torch.bfloat16)
    told = {{
        "place": [team.rank, team.size],
        "share": team.share(range(5)),
        "block": team.block(range(5)),
        "total": team.all_reduce_sum(exact).tolist(),
        "values": team.gather_values({{"rank": rank, "third": 1 / 3, "nothing": float("nan")}}),
        "bytes": [part.decode() for part in team.gather_bytes(b"a" * rank)],
        "tensors": [part["own"].float().tolist() for part in team.gather_tensors({{"own": own}})],
        "frames": [frame["x"].tolist() for frame in team.gather_frames(pd.DataFrame({{"x": [0.1] * rank}}))],
        "sent": [part.float().tolist() for part in team.gather_to(1, own, [1, 2])],
        "first": is_first_to_report(),
    }}
    loaded, load = [], stages.load_sae
    stages.load_sae = lambda folder, layer, *rest: loaded.append(layer) or load(folder, layer, *rest)
    prompt_parts.CHECKPOINT_SECONDS = 0.0
    found, vlm = search(Checkpoint(folder, {{}}))
    told |= {{"images": len(vlm.image_tokens), "saes": sorted(set(loaded))}}
    found_in(found, folder / f"found-{{rank}}")
    told["kept"] = sorted(path.name for path in folder.glob("rounds-*"))
    team.barrier()
    if rank == 0:
        # As after a kill: one process has saved all of its parts, the other only its first, and no sweep is done.
        for path in [*folder.glob("rounds-000-*"), *folder.glob("margins-*")]:
            if path.name != "rounds-000-000000.safetensors":
                path.unlink()
    team.barrier()
    found_in(search(Checkpoint(folder, {{}}))[0], folder / f"again-{{rank}}")
    found_in(one_layer(vlm), folder / f"single-{{rank}}")
    told["pictures"] = pictures(vlm, team, folder)
    (folder / f"told-{{rank}}.json").write_text(json.dumps(told))
    vlm.team = team
    said_by(vlm, folder / f"said-{{rank}}.safetensors")
ablate(folder, folder / what)
# As the commands do. A process that leaves with open connections may abort: gloo's threads are still running.
shut_down()
"""


def search(checkpoint=NO_CHECKPOINT):
    """The search that one and two processes run, and its model."""
    vlm = load_vlm(WORLD / "planted", "cpu", "float32")
    questions = load_questions(WORLD / "questions.jsonl", split="train")[:110]
    return find_features(vlm, WORLD / "saes", questions, **FIND, checkpoint=checkpoint), vlm


def one_layer(vlm):
    """A search that leaves one of two processes without a layer."""
    questions = load_questions(WORLD / "questions.jsonl", split="train")[:60]
    return find_features(vlm, WORLD / "saes", questions, layers=[5], batch_tokens=3000)


def pictures(vlm, team, folder: Path) -> list[dict[str, float]]:
    """The tokens of one image, of none and of five, encoded by all processes together into a file in `folder`."""
    images = sorted({question.image for question in load_questions(WORLD / "questions.jsonl")})[:5]
    found = []
    for asked in (images[:1], [NO_IMAGE], images):
        vlm.image_tokens.clear()
        encode_into_file(vlm, asked, team, folder)
        found.append({Path(path).name: float(vlm.image_tokens[path].double().sum()) for path in asked})
    return found


def found_in(found, folder: Path) -> None:
    """Write everything that a search has found, bit by bit."""
    folder.mkdir()
    (folder / "layers.json").write_text(found.artifact.model_dump_json(exclude={"provenance"}))
    found.features.to_parquet(folder / "features.parquet")
    (folder / "top").write_bytes(found.top_activations.tobytes())


def said_by(vlm, path: Path) -> None:
    """Write the measurements and answers of a model on some prompts."""
    prompts = prompt_table(load_questions(WORLD / "questions.jsonl", split="test")[:40])
    found = measure(vlm, prompts, [2, 5], batch_tokens=2000)
    words = "|".join(generate(vlm, prompts[:60], 3, batch_tokens=2000))
    save_file(found._asdict() | {"words": torch.tensor(list(words.encode()))}, path)


def launch(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """Start two processes on the CPU; `accelerate launch --cpu` would start one."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    command += ["--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", str(port), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of both launches."""
    folder = tmp_path_factory.mktemp("processes")
    make_world(folder / "world", patients=6)
    (folder / "layers.json").write_text(
        layers_json(profile=[entry.model_dump() for entry in profile_of([0.6, 0.8, 0.7])])
    )
    (folder / "launched.py").write_text(LAUNCHED.format(tests=str(Path(__file__).parent)))
    return folder


@pytest.fixture(scope="module")
def told(folder):
    """The report of each of the two processes."""
    done = launch("launched.py", "whole", folder, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(2)]


def ablate(folder: Path, out: Path):
    """The ablation that one and two processes run."""
    model, data = ModelSpec(folder / "world/model", device="cpu"), DataSpec(folder / "world/questions.jsonl")
    return ablate_saved(model, data, out, folder / "layers.json", ABLATION)


@pytest.fixture(scope="module")
def alone(folder):
    """The ablation in one process: its result and its folder."""
    return ablate(folder, folder / "alone"), folder / "alone"


def test_what_processes_exchange(told):
    assert [t["place"] for t in told] == [[0, 2], [1, 2]]
    assert [t["share"] for t in told] == [[0, 2, 4], [1, 3]]
    assert [t["block"] for t in told] == [[0, 1], [2, 3, 4]]
    for rank, each in enumerate(told):
        assert each["total"] == torch.tensor([0.1, 1e-30, 3.0]).tolist()
        assert [part["rank"] for part in each["values"]] == [0, 1]
        assert [part["third"] for part in each["values"]] == [1 / 3, 1 / 3]
        assert each["bytes"] == ["", "a"]
        rounded = torch.tensor([0.3, 1.3], dtype=torch.bfloat16).tolist()
        assert each["tensors"] == [[[rounded[0]] * 2], [[rounded[1]] * 2] * 2]
        assert each["frames"] == [[], [0.1]]
        assert each["sent"] == (each["tensors"] if rank == 1 else [])
    assert sorted(t["first"] for t in told) == [False, True]


def test_a_single_process_gets_back_what_it_gives():
    tensor, frame = torch.ones(2), pd.DataFrame({"x": [1]})
    assert ALONE.all_reduce_sum(tensor) is tensor
    assert ALONE.gather_frames(frame)[0] is frame
    assert ALONE.gather_tensors({"a": tensor})[0]["a"] is tensor
    assert ALONE.share(range(3)) == ALONE.block(range(3)) == [0, 1, 2]
    assert [Team(rank, 4, None).block(range(2)) for rank in range(4)] == [[], [0], [], [1]]


def test_two_processes_find_bit_by_bit_what_one_finds(told, folder):
    found, vlm = search()
    found_in(found, folder / "found-alone")
    for name in ("layers.json", "features.parquet", "top"):
        expected = (folder / "found-alone" / name).read_bytes()
        for found_by in ("found-0", "found-1", "again-0", "again-1"):
            assert (folder / found_by / name).read_bytes() == expected, (found_by, name)
    assert found.artifact.data.flip_bank > 5
    # Each process saved its own parts, and neither did everything.
    assert {name[:10] for name in told[0]["kept"]} == {"rounds-000", "rounds-001"}
    assert [t["saes"] for t in told] == [[3, 4], [5, 6, 7]]
    assert all(t["images"] < len(vlm.image_tokens) for t in told)


def test_a_process_without_a_layer_takes_part_in_every_sweep(told, folder):
    found_in(one_layer(load_vlm(WORLD / "planted", "cpu", "float32")), folder / "single-alone")
    for name in ("layers.json", "features.parquet", "top"):
        expected = (folder / "single-alone" / name).read_bytes()
        assert [(folder / f"single-{rank}" / name).read_bytes() == expected for rank in range(2)] == [True, True], name


def test_two_processes_encode_together_what_one_does(told, tmp_path):
    expected = pictures(load_vlm(WORLD / "planted", "cpu", "float32"), ALONE, tmp_path)
    assert [len(found) for found in expected] == [1, 1, 5]
    assert len({round(value, 3) for value in expected[2].values()}) == 5
    assert told[0]["pictures"] == told[1]["pictures"]
    for found, of_one in zip(told[0]["pictures"], expected, strict=True):
        assert list(found) == list(of_one)
        assert found == pytest.approx(of_one, rel=1e-5)


def test_two_processes_measure_and_say_together_what_one_does(told, folder):
    vlm = load_vlm(WORLD / "planted", "cpu", "float32")
    said_by(vlm, folder / "said.safetensors")
    expected = load_file(folder / "said.safetensors")
    assert len(expected["margin"]) > 100
    for rank in range(2):
        found = load_file(folder / f"said-{rank}.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_two_processes_share_the_arms_of_an_ablation(told, folder, alone):
    assert same_arms(folder / "whole" / "arms", alone[1] / "arms") == 4


def same_arms(one: Path, other: Path) -> int:
    names = sorted(path.name for path in other.iterdir())
    assert sorted(path.name for path in one.iterdir()) == names
    for name in names:
        assert pq.read_table(one / name).equals(pq.read_table(other / name)), name
    return len(names)


def test_an_ablation_whose_process_was_killed_resumes(folder, alone):
    done = launch("launched.py", "die", folder, cwd=folder)
    assert done.returncode != 0
    assert f"Signal {signal.SIGKILL.value} (SIGKILL)" in done.stderr
    left = list((folder / "die" / "arms").glob("*.parquet"))
    assert len(left) < 4
    again = ablate(folder, folder / "die")
    assert again is not None
    assert same_arms(folder / "die" / "arms", alone[1] / "arms") == 4
    for found in (again, alone[0]):
        for arm in found.arms:
            assert all(seconds >= 0 for seconds in arm.seconds)
    drop = {"arms": {"__all__": {"seconds"}}, "provenance": True}
    assert again.model_dump(exclude=drop) == alone[0].model_dump(exclude=drop)


def test_an_image_that_one_process_cannot_read_stops_all_with_one_message(own_data, tmp_path):
    (own_data / "images" / "3.png").write_bytes(b"no image")
    arguments = ["--questions", own_data / "questions.jsonl", "--split", "all", "--layers", "4", "--device", "cpu"]
    done = launch("-m", "interp", "find-features", *arguments, "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "not a readable image" in done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_split_model_keeps_its_layers_in_order_and_finds_the_same(tiny_model):
    from accelerate import dispatch_model

    vlm = load_vlm(tiny_model, "cpu", "float32")
    places = balanced_device_map(vlm.model, ["a", "b", "c"])
    layers = [places[f"model.language_model.layers.{k}"] for k in range(4)]
    assert layers == sorted(layers)
    assert {places["lm_head"], places["model.language_model.norm"], places["model.vision_tower"]} == {"a"}
    assert layers[-1] == "c"
    questions = [q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed][:4]
    prompts = pd.DataFrame(
        {"image": [q.image for q in questions], "text": [q.question for q in questions], "closed": True}
    )
    plain = measure(vlm, prompts, [1, 3])
    dispatch_model(vlm.model, balanced_device_map(vlm.model, ["cpu", "cpu"]), main_device="cpu", force_hooks=True)
    assert all(hasattr(layer, "_hf_hook") for layer in vlm.layers)
    hooked = measure(vlm, prompts, [1, 3])
    assert torch.equal(hooked.margin, plain.margin)
    assert torch.equal(hooked.residuals, plain.residuals)

"""A search that was killed is resumed to the same bits; finished parts of another search are refused by name."""

import json
import os
import re
import signal
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from interp.measurement import sharded as exchange
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.schema import Paraphrase
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae, save_sae
from interp.schemas.items_kept import ItemsKept
from interp.schemas.layers import read_layers
from interp.search import run_folder as run
from interp.search.run_folder import find_into
from interp.search.settings import FindSettings
from interp.search.task import Search
from interp.storage import checkpoint, prompt_parts
from interp.storage.manifest import check_manifest

KILLED = 4
"""Number of files that are written before each kill."""


@pytest.fixture(scope="module")
def search():
    vlm = load_vlm(WORLD / "planted", "cpu", "float32")
    questions = load_questions(WORLD / "questions.jsonl", split="train")[:110]
    saes = locate_saes(WORLD / "saes", layers=[4, 5])
    return Search(vlm, saes, questions, [4, 5], FindSettings(min_flips=1), "train", 2000, None)


@pytest.fixture(autouse=True)
def _all_is_kept(monkeypatch):
    monkeypatch.setattr(prompt_parts, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def whole(search, tmp_path_factory):
    """The folder of a search that was not interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert find_into(out, lambda: search) is not None
    assert not out.with_name("out.partial").exists()
    check_manifest(out)
    return out


def killed(search, out: Path, resume: bool, after: int) -> int:
    """The exit code of a search in a child process that is killed after `after` files are written or moved."""
    number = os.fork()
    if number:
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    # Torch creates its thread pool anew after a fork, and two threads that start at once would corrupt it.
    torch.set_num_threads(1)
    left = [after]

    def counted(function):
        def call(*arguments, **named):
            found = function(*arguments, **named)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return call

    checkpoint.write_tensors = counted(checkpoint.write_tensors)
    run.write_run, run.shutil.move = counted(run.write_run), counted(run.shutil.move)
    try:
        find_into(out, lambda: search, resume)
    finally:
        os._exit(0 if resume else 1)


def same(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert sorted(path.name for path in other.iterdir()) == names
    # layers.json records when the process started, and the manifest its checksum.
    told = ("layers.json", "manifest.json")
    assert [n for n in names if n not in told and (one / n).read_bytes() != (other / n).read_bytes()] == []
    found = [read_layers(folder / "layers.json").model_copy(update={"provenance": None}) for folder in (one, other)]
    assert found[0] == found[1]
    check_manifest(one)


def test_a_search_that_is_killed_again_and_again_finds_the_same(search, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    work = out.with_name("out.partial")
    assert killed(search, out, False, KILLED) == -signal.SIGKILL
    assert len(list(work.glob("*.safetensors"))) == KILLED
    kinds, other_images, kills = set(), set(), 1
    after = KILLED
    while killed(search, out, True, after) == -signal.SIGKILL:
        kills += 1
        kinds |= {path.name.split("-")[0] for path in work.glob("*.safetensors")}
        measured = len(list(work.glob("other-images-*/rounds-*.safetensors")))
        other_images.add(measured)
        # The prompts with other images come after the screening of both layers, in four parts.
        after = 1 if measured < 4 and len(list(work.glob("layer-*.safetensors"))) == 2 else KILLED
    assert kinds == {"rounds", "gradients", "layer", "margins"}
    # Kills left some of these parts, and the next run went on after them.
    assert other_images & {1, 2, 3}
    assert max(other_images) == 4
    assert kills > 10
    same(out, whole)
    assert not work.exists()


def test_finished_parts_are_not_computed_again(search, whole, tmp_path, monkeypatch, capsys):
    """Nor is a run that was finished, but not yet moved to its place."""
    out = tmp_path / "out"

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_run", stopped)
        with pytest.raises(KeyboardInterrupt):
            find_into(out, lambda: search)
    asked = []
    batches = exchange.launch_batches
    monkeypatch.setattr(exchange, "launch_batches", lambda *given: asked.append(given[3]) or batches(*given))
    monkeypatch.setattr("interp.measurement.suffix_rerun.SuffixRerun._batches", stopped)
    assert find_into(out, lambda: search, resume=True) is not None
    # Neither the prompts nor those with another image.
    assert asked == [[], []]
    assert "does not use" not in capsys.readouterr().err
    same(out, whole)


def test_work_of_an_earlier_version_with_other_stages_is_named(search, whole, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    names = checkpoint.stage_name
    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoint, "software", lambda: {"gatescope": "0.1.0"})
        earlier.setattr(checkpoint, "stage_name", lambda kind, tensors: names(f"old-{kind}", tensors))
        assert killed(search, out, False, 8) == -signal.SIGKILL
    capsys.readouterr()
    assert find_into(out, lambda: search, resume=True) is not None
    told = capsys.readouterr().err.splitlines()
    assert f"started with gatescope 0.1.0 (now {version('gatescope')}): what is now divided into other" in told[0]
    (unused,) = [line for line in told if "does not use" in line]
    assert unused.startswith(f"{out}.partial: this run of gatescope {version('gatescope')}")
    assert re.search(
        r"what gatescope 0\.1\.0( at commit \w{9})? kept there as old-gradients[\w, -]*, and computes it again", unused
    )
    same(out, whole)


def test_a_search_of_anything_else_is_refused_by_name(search, tmp_path, capsys):
    out = tmp_path / "out"
    assert killed(search, out, False, 2) == -signal.SIGKILL
    with pytest.raises(InputError, match="holds the work of an interrupted run"):
        find_into(out, lambda: search)
    state = search.vlm.model.state_dict()["model.language_model.norm.weight"]
    sae = load_sae(search.saes[5], 5, search.vlm.d_model)
    save_sae(sae._replace(threshold=sae.threshold * 2), tmp_path / "sae", "another")
    # Another image under the same name.
    first = Path(search.questions[0].image)
    Image.effect_noise((64, 64), 50).save(tmp_path / first.name)
    copied = search.questions[0].model_copy(update={"image": str(tmp_path / first.name)})
    for other, message in (
        (search._replace(settings=FindSettings(seed=1, min_flips=1)), "was made with seed 0, but now it is 1"),
        (search._replace(questions=search.questions[:100]), "was made with questions"),
        (search._replace(saes={4: search.saes[4], 5: tmp_path / "sae"}), "was made with saes"),
        (search._replace(questions=[copied, *search.questions[1:]]), "was made with image contents"),
        (search._replace(batch_tokens=4000), "was made with batch tokens 2000, but now it is 4000"),
    ):
        with pytest.raises(InputError) as refused:
            find_into(out, lambda other=other: other, resume=True)
        assert message in str(refused.value)
        assert "keeps the work" not in capsys.readouterr().err
    with torch.no_grad():
        state[0] += 1
        with pytest.raises(InputError, match="was made with weights"):
            find_into(out, lambda: search, resume=True)
        state[0] -= 1
    part = min(out.with_name("out.partial").glob("rounds-*"))
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"rounds-000-000000.safetensors: damaged"):
        find_into(out, lambda: search, resume=True)
    assert not out.exists()


def test_work_under_names_that_another_search_does_not_ask_for_is_not_lost(search, tmp_path, monkeypatch):
    """Prompts measured within a minute are not kept, and every other name follows from the pairs that are chosen."""
    monkeypatch.setattr(prompt_parts, "CHECKPOINT_SECONDS", 60.0)
    out = tmp_path / "out"
    work = out.with_name("out.partial")
    assert killed(search, out, False, 3) == -signal.SIGKILL
    kept = {path.name: path.stat().st_mtime_ns for path in work.glob("*.safetensors")}
    assert {name.split("-")[0] for name in kept} == {"gradients", "layer"}
    other = search._replace(settings=FindSettings(seed=1, min_flips=1), batch_tokens=4000)
    with pytest.raises(InputError) as refused:
        find_into(out, lambda: other, resume=True)
    assert "was made with seed 0, but now it is 1; with batch tokens 2000, but now it is 4000." in str(refused.value)
    assert f"remove {work} to start over" in str(refused.value)
    assert {path.name: path.stat().st_mtime_ns for path in work.glob("*.safetensors")} == kept
    assert not out.exists()


def test_a_whole_run_has_nothing_left_to_do(search, whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert find_into(whole, lambda: search, resume=True) is None
    assert capsys.readouterr().err == f"{whole}: already complete, so nothing is left to do.\n"
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before
    with pytest.raises(InputError, match="already holds a run"):
        find_into(whole, lambda: search)
    with pytest.raises(InputError, match="already holds a run"):
        find_into(whole, lambda: search._replace(split="test"), resume=True)


@pytest.mark.parametrize(
    ("kept", "asked", "message"),
    [
        (ItemsKept(), ItemsKept(keep=True), r"already complete, without items\.parquet.*another --out"),
        (ItemsKept(keep=True), ItemsKept(keep=True, include_text=True), "without wordings.*interp.with_questions"),
    ],
)
def test_items_cannot_be_added_to_a_whole_run(search, tmp_path, kept, asked, message):
    few = search._replace(questions=search.questions[:1])
    assert find_into(tmp_path / "out", lambda: few, items=kept) is not None
    with pytest.raises(InputError, match=message):
        find_into(tmp_path / "out", lambda: few, resume=True, items=asked)
    assert find_into(tmp_path / "out", lambda: few, resume=True, items=kept) is None


def test_a_search_with_hardly_any_questions_can_be_resumed(search, tmp_path):
    """One patient leaves no held-out half, and without flips there is nothing to patch."""
    still = [q.model_copy(update={"paraphrases": [Paraphrase(text=q.question)]}) for q in search.questions[:20]]
    for name, few in (("patient", search.questions[:1]), ("still", still)):
        found = find_into(tmp_path / name, lambda few=few: search._replace(questions=few))
        assert found.artifact.verdict == "too few flips"
        assert find_into(tmp_path / name, lambda few=few: search._replace(questions=few), resume=True) is None


def test_a_damaged_file_in_an_inner_folder_names_the_folder_of_the_whole_run(tmp_path):
    inner = checkpoint.Checkpoint(tmp_path, {"a": 1}).within("other-images").within("more")
    inner.write("rounds", {"margin": torch.zeros(3)})
    assert inner.read("rounds")["margin"].tolist() == [0, 0, 0]
    file = tmp_path / "other-images" / "more" / "rounds.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match=f"Remove {re.escape(str(tmp_path))} to start over"):
        inner.read("rounds")


def without_software(record):
    del record["software"]


def another_provenance(record):
    record["provenance"]["temperature"] = 21


def another_schema(record):
    record["schema_version"] += 1
    another_provenance(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_software, r"rounds.safetensors: damaged \('software'\)"),
        (another_provenance, r"rounds.safetensors: damaged \(1 validation error for Provenance"),
        (another_schema, "rounds.safetensors: schema version 3, but this GateScope reads 2"),
    ],
)
def test_a_file_that_says_something_else_of_itself_is_refused(tmp_path, change, message):
    keep = checkpoint.Checkpoint(tmp_path, {"a": 1})
    keep.write("rounds", {"margin": torch.zeros(3)})
    keep.refuse_others()
    file = tmp_path / "rounds.safetensors"
    with safe_open(file, "pt") as saved:
        record = json.loads(saved.metadata()["record"])
    change(record)
    save_file({"margin": torch.zeros(3)}, file, {"record": json.dumps(record)})
    for check in (keep.refuse_others, lambda: keep.read("rounds")):
        with pytest.raises(InputError, match=message):
            check()


def test_parts_hold_whole_batches_and_come_when_they_are_due(tmp_path, monkeypatch):
    """By a clock on which writing a part takes 4.5 seconds and a batch 30."""
    clock = [0.0]
    monkeypatch.setattr(prompt_parts, "CHECKPOINT_SECONDS", 60.0)
    monkeypatch.setattr(prompt_parts.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(prompt_parts, "PART_BYTES", 32)
    values = torch.arange(40.0)
    keep = checkpoint.Checkpoint(tmp_path, {"a": 1})

    write_tensors = checkpoint.write_tensors

    def write(*given):
        clock[0] += 4.5
        write_tensors(*given)

    monkeypatch.setattr(checkpoint, "write_tensors", write)
    parts = prompt_parts.PromptParts(keep, 1, 4, lambda prompts: {"value": values[prompts]})
    counts = []
    for prompts in torch.arange(40).split(4):
        clock[0] += 30
        parts.add(prompts)
        counts.append(len(list(tmp_path.iterdir())))
    parts.finish()
    # Two batches per part. Writing the third and fourth took 9 seconds, so the next ones are due three minutes later.
    assert counts == [0, 1, 1, 1, 3, 3, 3, 3, 3, 3]
    found = list(prompt_parts.PromptParts(keep, 1, 4, dict).read())
    assert [part["prompts"].tolist() for part in found] == [
        list(range(first, last)) for first, last in ((0, 8), (8, 16), (16, 20), (20, 28), (28, 36), (36, 40))
    ]
    assert all(torch.equal(part["value"], values[part["prompts"]]) for part in found)
    assert list(prompt_parts.PromptParts(keep, 0, 4, dict).read()) == []

"""`finetune push`: what is shown, what is sent, and what is refused."""

import hashlib
import json
import os
import shutil
import socket
import tempfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from finetune_world import make_world
from huggingface_hub import HfApi, ModelCard

from finetune.evaluation.run import evaluate_saved
from finetune.evaluation.settings import EvaluationSettings
from finetune.lora.adapter_folder import read_record
from finetune.lora.settings import TrainSettings
from finetune.publishing.card import model_card
from finetune.training.run import train_and_evaluate
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.schemas.layers import ModelEntry
from interp.storage.atomic import write_text

BASE = "google/medgemma-4b-it"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROCESSOR = ["chat_template.jinja", "processor_config.json", "tokenizer.json", "tokenizer_config.json"]
SENT = sorted(
    ["README.md", "adapter_config.json", "adapter_model.safetensors", "evaluation.json", "gatescope.json", *PROCESSOR]
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("push") / "world", patients=4)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "adapter"
    settings = TrainSettings(rank=2, alpha=4, epochs=1, seed=3)
    return out, train_and_evaluate(
        ModelSpec(world.model, device="cpu"), DataSpec(world.questions), out, settings, layers="1-2"
    )


@pytest.fixture
def local(trained, tmp_path):
    """A copy of an adapter of a local base, without its manifest, because tests edit its files."""
    copy = Path(shutil.copytree(trained[0], tmp_path / "adapter"))
    (copy / "manifest.json").unlink()
    return copy


@pytest.fixture
def adapter(local, trained):
    """Another copy, edited as if it had been trained on a model of the hub."""
    model = ModelEntry(id=BASE, revision=COMMIT, n_layers=3, d_model=32, dtype="float32")
    record = read_record(local).model_copy(update={"model": model})
    write_text(local / "gatescope.json", record.model_dump_json())
    write_text(local / "README.md", model_card(record, trained[1]))
    change_json(local / "adapter_config.json", base_model_name_or_path=BASE)
    return local


@pytest.fixture
def run(called):
    """Run `finetune push`; gives (exit code, stdout, stderr)."""
    return partial(called, "finetune", "push")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture
def hub(monkeypatch, no_network):
    """A stand-in for the three calls of the hub: what was requested, and the files as they were sent."""
    seen = SimpleNamespace(created=[], uploads=[], files={}, existing_private=None)

    def create_repo(api, **asked):
        seen.created.append(asked)

    def model_info(api, repo_id):
        asked = seen.created[-1]["private"]
        return SimpleNamespace(private=asked if seen.existing_private is None else seen.existing_private)

    def upload_folder(api, **asked):
        folder = Path(asked["folder_path"])
        seen.uploads.append(asked)
        seen.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")}

    for method in (create_repo, model_info, upload_folder):
        monkeypatch.setattr(HfApi, method.__name__, method)
    return seen


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def state(folder):
    """Path, time and content of every file of a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def front_matter(shown):
    """The printed front matter, parsed."""
    block = shown.split("Front matter of the card:\n")[1].split("\n\n")[0]
    lines = "\n".join(line.removeprefix("  ") for line in block.splitlines())
    return ModelCard(f"---\n{lines}\n---\n").data.to_dict()


def test_a_dry_run_shows_everything_and_touches_no_network(run, adapter, no_network, monkeypatch, tmp_path):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (adapter / "optimizer.pt").write_bytes(b"\x80\x04.")
    (adapter / "checkpoint").mkdir()
    (adapter / "checkpoint" / "adapter_model.safetensors").write_bytes(b"older")
    before = state(adapter)
    code, out, err = run(adapter, "me/consistent")
    assert (code, err) == (0, "")
    assert "Repository: me/consistent (private)" in out
    listed = out.split("Files:\n")[1].split("\n\n")[0].split("\n")
    assert [line.split()[0] for line in listed] == SENT
    assert f"{(adapter / 'adapter_model.safetensors').stat().st_size:,} bytes" in listed[2]
    assert front_matter(out)["base_model"] == BASE
    assert front_matter(out)["license_name"] == "health-ai-developer-foundations"
    assert "Left out: checkpoint, history.csv, optimizer.pt." in out
    assert "hashes of training texts" in out
    assert "make sure that the terms of these data" in out
    assert "names no licence" not in out
    assert "Nothing was sent." in out
    assert state(adapter) == before
    assert list((tmp_path / "temporary").iterdir()) == [], "the staging folder is deleted"


def test_an_upload_sends_what_the_dry_run_showed(run, adapter, hub):
    before = state(adapter)
    shown = run(adapter, "me/consistent")[1]
    assert hub.created == []
    code, out, _ = run(adapter, "me/consistent", "--upload")
    assert code == 0
    assert "Sent: https://huggingface.co/me/consistent" in out
    assert hub.created == [{"repo_id": "me/consistent", "private": True, "exist_ok": True}]
    assert [asked["repo_id"] for asked in hub.uploads] == ["me/consistent"]
    assert sorted(hub.files) == SENT
    for name, content in hub.files.items():
        assert f"{name:<28}{len(content):>14,} bytes" in shown
        assert f"{name:<28}{len(content):>14,} bytes" in out
    for name in ("adapter_model.safetensors", "evaluation.json", *PROCESSOR):
        assert hub.files[name] == (adapter / name).read_bytes()
    assert json.loads(hub.files["adapter_config.json"]) == json.loads((adapter / "adapter_config.json").read_text())
    mine = json.loads((adapter / "gatescope.json").read_text())
    assert mine["text_hashes"]
    assert json.loads(hub.files["gatescope.json"]) == mine | {"text_hashes": []}
    card = hub.files["README.md"].decode()
    assert 'PeftModel.from_pretrained(base, "me/consistent")' in card
    assert card.replace("me/consistent", "path/to/this/adapter") == (adapter / "README.md").read_text()
    assert front_matter(shown) == ModelCard(card).data.to_dict()
    assert state(adapter) == before
    assert not Path(hub.uploads[0]["folder_path"]).exists()


def test_public_is_said_and_asked_for(run, adapter, hub):
    code, out, _ = run(adapter, "me/consistent", "--upload", "--public")
    assert code == 0
    assert "me/consistent (PUBLIC)" in out
    assert hub.created[0]["private"] is False


@pytest.mark.parametrize(("private", "options"), [(False, []), (True, ["--public"])])
def test_a_repository_of_another_visibility_is_left_alone(run, adapter, hub, private, options):
    hub.existing_private = private
    assert_error(run(adapter, "me/consistent", "--upload", *options), "so nothing was sent")
    assert hub.uploads == []


def test_a_base_given_by_hand_is_written_into_the_copies_only(run, world, local, hub):
    before = state(local)
    code, out, _ = run(local, "me/consistent", "--base-model", BASE, "--upload")
    assert code == 0
    config = json.loads(hub.files["adapter_config.json"])
    mine = json.loads((local / "adapter_config.json").read_text())
    assert mine["base_model_name_or_path"] == str(world.model)
    assert config == mine | {"base_model_name_or_path": BASE}
    card = ModelCard(hub.files["README.md"].decode())
    assert (card.data.base_model, card.data.license) == (BASE, "other")
    assert f'AutoModelForImageTextToText.from_pretrained("{BASE}")' in card.text
    assert f"instead of {world.model}." in out
    for name, content in hub.files.items():
        assert str(world.model).encode() not in content, name
    assert state(local) == before


@pytest.mark.filterwarnings("ignore:.*google/medgemma-4b-it:UserWarning")
def test_what_was_sent_loads_and_is_evaluated(run, world, local, hub, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    run(local, "me/consistent", "--base-model", BASE, "--upload")
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, content in hub.files.items():
        (folder / name).write_bytes(content)
    base = AutoModelForImageTextToText.from_pretrained(world.model)
    assert PeftModel.from_pretrained(base, folder).peft_config["default"].base_model_name_or_path == BASE
    processor, own = (AutoProcessor.from_pretrained(place) for place in (folder, world.model))
    assert processor.tokenizer.get_vocab() == own.tokenizer.get_vocab()
    assert processor.chat_template == own.chat_template
    assert processor.image_processor.to_dict() == own.image_processor.to_dict()
    again = evaluate_saved(
        [folder], DataSpec(world.questions), ModelSpec(world.model, device="cpu"), EvaluationSettings(seed=3)
    )
    assert {c.kind for c in again.comparisons} >= {"all", "type"}
    assert "phrasings" not in {c.kind for c in again.comparisons}, "without hashes no phrasing is called unseen"


def test_a_folder_without_a_processor_names_that_of_the_base(run, local, hub):
    """As folders of earlier versions are."""
    for name in PROCESSOR:
        (local / name).unlink()
    code, out, _ = run(local, "me/consistent", "--base-model", BASE, "--upload")
    assert code == 0
    assert "holds no processor" in out
    assert not set(hub.files) & set(PROCESSOR)
    assert f'AutoProcessor.from_pretrained("{BASE}")' in hub.files["README.md"].decode()


@pytest.mark.parametrize(
    "name", ["adapter", "a/b/c", "me/", "me/a b", "me/--a", "https://huggingface.co/me/a", "./me/a"]
)
@pytest.mark.parametrize("option", ["REPO", "--base-model"])
def test_a_bad_name_is_refused_before_anything(run, no_network, tmp_path, name, option):
    """Even before the folder is read, which does not exist here."""
    arguments = [name] if option == "REPO" else ["me/consistent", "--base-model", name]
    assert_error(run(tmp_path / "absent", *arguments), f"{option} '{name}'")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("adapter_config.json", "no adapter_config.json"),
        ("adapter_model.safetensors", "no adapter_model.safetensors"),
        ("gatescope.json", "no gatescope.json"),
        ("evaluation.json", "no evaluation.json"),
        ("README.md", "no card"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(run, adapter, hub, file, message):
    (adapter / file).unlink()
    assert_error(run(adapter, "me/consistent", "--upload"), message)
    assert hub.created == []


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter_model.safetensors", b"\x80\x04.", "damaged"),
        ("adapter_config.json", b"{", "not JSON"),
        ("adapter_config.json", b"[]", "expected an object"),
        ("adapter_config.json", b"[" * 20000, "nested too deeply"),
        ("evaluation.json", b"{", "not JSON"),
        ("gatescope.json", b"{", "gatescope.json"),
        ("README.md", b"# No front matter\n", "front matter"),
        ("README.md", b"---\na: [\n---\n", "unreadable front matter"),
        ("README.md", b"---\na: b\n---\n\xff", "UTF-8"),
        ("README.md", b"---\nbase_model: a/b\n---\n[More Information Needed]\n", "still has blanks"),
    ],
)
def test_a_damaged_file_is_refused(run, adapter, hub, file, content, message):
    (adapter / file).write_bytes(content)
    assert_error(run(adapter, "me/consistent", "--upload"), message)
    assert hub.created == []


def test_a_local_base_is_refused_and_the_way_out_is_told(run, world, local, hub):
    before = state(local)
    for options in ([], ["--upload"]):
        assert_error(run(local, "me/consistent", *options), f"({world.model})", f"--base-model {BASE}")
    assert hub.created == []
    assert state(local) == before


@pytest.mark.parametrize("named", ["models/medgemma", "medgemma", None])
def test_a_local_base_that_looks_like_a_hub_id_is_refused(run, local, hub, named):
    """The record says that the base came from a folder."""
    change_json(local / "adapter_config.json", base_model_name_or_path=named)
    assert_error(run(local, "me/consistent"), "a folder on this machine")


@pytest.mark.parametrize("file", ["README.md", "adapter_config.json", "evaluation.json"])
def test_a_path_of_this_machine_is_refused(run, adapter, hub, monkeypatch, tmp_path, file):
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    secret = f"{tmp_path}/somebody/data/questions.jsonl"
    path = adapter / file
    if file == "README.md":
        path.write_text(path.read_text() + f"\nTrained on {secret}.\n")
    else:
        change_json(path, note=secret)
    assert_error(run(adapter, "me/consistent", "--upload"), f"{file}: contains", "somebody")
    assert hub.created == []


def test_what_speaks_against_it_is_noted(run, adapter, no_network):
    card = ModelCard.load(adapter / "README.md")
    for key in ("license", "license_name", "license_link"):
        card.data[key] = None
    card.save(adapter / "README.md")
    change_json(adapter / "evaluation.json", verdict="Improved but less grounded: flips fell.")
    out = run(adapter, "me/consistent")[1]
    assert "The card names no licence" in out
    assert "does not simply call it improved. Improved but less grounded" in out
    change_json(adapter / "evaluation.json", verdict="Improved: flips fell.")
    assert "does not simply" not in run(adapter, "me/consistent")[1]


@pytest.fixture
def answering(monkeypatch):
    """A server that replaces the hub and answers every call with one status; gives the function that sets it."""

    class Handler(BaseHTTPRequestHandler):
        status = 200

        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(self.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_HEAD = answer  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    point_to(monkeypatch, server.server_port)
    yield lambda status: setattr(Handler, "status", status)
    server.shutdown()
    server.server_close()


def point_to(monkeypatch, port):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    huggingface_hub.close_session()


@pytest.mark.parametrize(
    ("status", "message"), [(401, "`hf auth login`"), (403, "may not write there"), (500, "HfHubHTTPError: ")]
)
def test_a_refusal_of_the_hub_is_one_paragraph(run, adapter, answering, status, message):
    answering(status)
    assert_error(run(adapter, "me/consistent", "--upload"), "me/consistent: the upload failed", message)


def test_an_unreachable_hub_is_one_paragraph(run, adapter, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    point_to(monkeypatch, port)
    assert_error(run(adapter, "me/consistent", "--upload"), "the hub cannot be reached")


def test_a_forbidden_network_is_one_paragraph(run, adapter, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    try:
        assert_error(run(adapter, "me/consistent", "--upload"), "HF_HUB_OFFLINE")
    finally:
        huggingface_hub.close_session()


def test_a_failure_while_sending_is_one_paragraph(run, adapter, hub, monkeypatch):
    def broken(api, **asked):
        raise RuntimeError("transfer engine stopped\nat line 1")

    monkeypatch.setattr(HfApi, "upload_folder", broken)
    assert_error(
        run(adapter, "me/consistent", "--upload"), "RuntimeError: transfer engine stopped. Repeat the same command"
    )


def assert_error(result, *messages):
    code, _, err = result
    last = err.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith("error: ")
    for message in messages:
        assert message in last
    assert "Traceback" not in err

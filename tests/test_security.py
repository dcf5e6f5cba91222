"""What untrusted files cannot make this code do, and what the code depends on."""

import ast
import contextlib
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from finetune_world import make_world
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load_file, save_file

from finetune.lora.adapter_folder import base_of, load_adapter, read_record
from finetune.lora.settings import TrainSettings
from finetune.publishing.card import code_span, model_card
from finetune.training.run import train_and_evaluate
from interp.images.decode import decode
from interp.images.grey import UnreadableImageError
from interp.model.load import load_vlm
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.errors import InputError

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "interp").rglob("*.py"), *(ROOT / "finetune").rglob("*.py")])
FORBIDDEN = {"eval", "exec", "compile", "os.system", "os.popen", "torch.load", "torch.save", "yaml.load", "input"}
MODULES = {
    "pickle",
    "shelve",
    "marshal",
    "dill",
    "cloudpickle",
    "joblib",
    "subprocess",
    "pty",
    "socket",
    "urllib",
    "requests",
}
"""Modules that run code or programs or use the network; only huggingface_hub talks to the hub."""
ALLOWED = {"interp/runtime/distributed.py": {"socket"}}
"""A process of several asks whether the address that its launcher named is open, before torch connects to it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("security") / "world", patients=4, layers=2)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("security") / "adapter"
    settings = TrainSettings(rank=2, alpha=4, epochs=1)
    evaluation = train_and_evaluate(
        ModelSpec(world.model, device="cpu"), DataSpec(world.questions, limit=4), out, settings, layers="1"
    )
    return out, evaluation


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    folder = Path(shutil.copytree(trained[0], tmp_path / "adapter"))
    (folder / "manifest.json").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_code_or_programs_or_opens_pickles(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert called not in FORBIDDEN, called
            assert given.get("trust_remote_code", "False") == "False"
            assert given.get("allow_pickle", "False") == "False"
            assert given.get("weights_only") is None
            if re.fullmatch(r"Auto\w+\.from_pretrained", called):
                assert given["trust_remote_code"] == "False"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            # urllib.parse splits and joins addresses, and opens none.
            allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
            assert not {name.split(".")[0] for name in names if name != "urllib.parse"} & MODULES - allowed


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_code_beside_a_model_is_not_run(world, tmp_path, monkeypatch, file):
    folder = Path(shutil.copytree(world.model, tmp_path / "model"))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    content = json.loads((folder / file).read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer")
    content["auto_map"] = dict.fromkeys(names, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    content |= {"processor_class": "EvilProcessor", "tokenizer_class": "EvilTokenizer"} if file != "config.json" else {}
    (folder / file).write_text(json.dumps(content))
    # transformers would ask for permission at the terminal.
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("asked whether to run code"))
    with contextlib.suppress(InputError):
        load_vlm(folder, "cpu", "float32")
    assert not (tmp_path / "ran").exists()


def test_pickled_models_and_adapters_are_refused(world, copied, tmp_path):
    folder = Path(shutil.copytree(world.model, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")  # noqa: TID251
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        load_vlm(folder, "cpu", "float32")
    torch.save(load_file(copied / "adapter_model.safetensors"), copied / "adapter_model.bin")  # noqa: TID251
    (copied / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors"):
        load_adapter(load_vlm(world.model, "cpu", "float32"), copied)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "imports a Python module, which is not supported"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"trainable_token_indices": [1]}, "does not fit .*trainable_tokens_delta"),
        ({"peft_type": "IA3"}, "this adapter is not a LoRA"),
        ({"r": 10**9}, "ranks do not match those of the saved weights"),
        ({"rank_pattern": {"q_proj": 10**9}}, "ranks do not match those"),
        ({"base_model_name_or_path": 5}, "is not text"),
    ],
)
def test_an_adapter_that_asks_for_more_than_a_plain_lora_is_refused(
    world, copied, tmp_path, monkeypatch, change, expected
):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps(config | change))
    vlm = load_vlm(world.model, "cpu", "float32")
    before = {name: weight.clone() for name, weight in vlm.model.state_dict().items()}
    with pytest.raises(InputError, match=expected):
        load_adapter(vlm, copied)
    after = vlm.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert not (tmp_path / "ran").exists()
    assert "evil" not in sys.modules


def test_an_adapter_that_does_not_fit_leaves_the_model_unchanged(world, copied):
    weights = load_file(copied / "adapter_model.safetensors")
    save_file({name: torch.ones(2, 2) for name in weights}, copied / "adapter_model.safetensors")
    vlm = load_vlm(world.model, "cpu", "float32")
    before = [(name, type(module)) for name, module in vlm.model.named_modules()]
    with pytest.raises(InputError, match="does not fit"):
        load_adapter(vlm, copied)
    assert [(name, type(module)) for name, module in vlm.model.named_modules()] == before


def test_the_base_that_an_adapter_names_is_only_a_place_to_look_for_a_model(copied, monkeypatch):
    monkeypatch.chdir(copied)
    config = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "../../elsewhere"}))
    # A model consists of safetensors and JSON wherever it lies, so any path is safe.
    assert base_of(copied) == "../../elsewhere"
    with pytest.raises(InputError, match="no such folder"):
        load_vlm(base_of(copied), "cpu")


def test_postscript_is_not_passed_to_ghostscript(tmp_path, monkeypatch):
    Image.new("L", (20, 20)).save(tmp_path / "a.eps")
    shutil.copy(tmp_path / "a.eps", tmp_path / "a.png")
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("started a program"))
    with pytest.raises(UnreadableImageError):
        decode(tmp_path / "a.png")


HOSTILE = [
    "<script>alert(1)</script>",
    "`<img src=x onerror=alert(1)>`",
    "[click](javascript:alert(1))",
    "![](https://evil.example/pixel.png)",
    'm"); import os; os.system("id',
    "a\n\n# Heading\n\n<b>bold</b>",
    "{{ 7 * 7 }}{% raw %}",
    "--- \nlicense: mit",
    "``` \n```",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_card_shows_hostile_names_literally(trained, text):
    folder, evaluation = trained
    record = read_record(folder)
    model = record.model.model_copy(update={"id": text})
    prompt = record.prompt.model_copy(update={"system": text, "answer_instruction": text})
    card = model_card(
        record.model_copy(update={"model": model, "layers_from": f"layers.json, {text}", "prompt": prompt}), evaluation
    )
    plain = model_card(record, evaluation)
    page = MarkdownIt("gfm-like", {"linkify": False}).render(card.split("\n---\n", 1)[1])
    usual = MarkdownIt("gfm-like", {"linkify": False}).render(plain.split("\n---\n", 1)[1])
    assert card.split("\n---\n", 1)[0] == plain.split("\n---\n", 1)[0], "front matter"
    for tag in ("<script", "<img", "<b>", 'javascript:alert(1)"', "<h1"):
        assert page.count(tag) == usual.count(tag), tag
    assert "49" not in re.findall(r"local folder, (.*)", page)[0]
    (code,) = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    lines = ("AutoProcessor", "AutoModelForImageTextToText", "PeftModel")
    assert calls == [f"{name}.from_pretrained" for name in lines]


def test_code_spans_can_contain_backticks():
    for text in ("a", "a`b", "`", "``a```b", "` `"):
        page = MarkdownIt().render(code_span(text))
        assert page == f"<p><code>{text}</code></p>\n"


def test_errors_escape_terminal_control_characters():
    assert (
        str(InputError("found \x1b]0;title\x07 and \x9b31m, row 3\n"))
        == "found \\x1b]0;title\\x07 and \\x9b31m, row 3\n"
    )


IMPORTED_AS = {
    "huggingface-hub": "huggingface_hub",
    "jinja2": "jinja2",
    "lazy-loader": "lazy_loader",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "sae-lens": "sae_lens",
    "transformer-lens": "transformer_lens",
}
OPTIONAL = {"triton"}
"""Part of torch's builds for GPUs, and imported only on a GPU."""


def test_declared_dependencies_are_exactly_the_imported_packages():
    imported = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).split(".")[0])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=!~\[; ]", line)[0].lower() for line in project["dependencies"]]
    declared = {IMPORTED_AS.get(name, name) for name in names}
    assert imported - set(sys.stdlib_module_names) - {"interp", "finetune"} - OPTIONAL == declared


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "requirements.lock").read_text().split()
    }
    assert {re.split(r"[<>=!~\[; ]", line)[0].lower().replace("_", "-") for line in wanted} <= pinned

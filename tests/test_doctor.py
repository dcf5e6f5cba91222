"""`interp doctor` on machines with and without a GPU, a login and a network: one screen, and no network unasked."""

import json
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch

from interp.model import doctor
from interp.model.doctor import examine, missing_extras
from interp.model.memory_model import Format
from interp.model.shape import MEDGEMMA_4B
from interp.runtime.console import results_console
from interp.runtime.errors import InputError
from interp.runtime.machine import GpuFacts, driver_version, free_space, from_home
from interp.runtime.memory import GIB
from interp.storage import hub_access
from interp.views.terminal.doctor import show_machine


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home folder without a login, with an empty cache of the hub."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def with_gpu(monkeypatch, capability, gib=16.0):
    """Make `examine` see a GPU; what it says of the memory is then computed from that."""
    name = "Tesla T4" if capability < (8, 0) else "NVIDIA L4"
    monkeypatch.setattr(doctor, "gpus", lambda: [GpuFacts(name, int(gib * GIB), int(gib * GIB), capability)])
    monkeypatch.setattr(doctor, "total_left", lambda device: int((gib if device.type == "cuda" else 40) * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def without_gpu(monkeypatch):
    """Make `examine` see none, also on a machine that has one."""
    monkeypatch.setattr(doctor, "gpus", list)


@pytest.mark.parametrize("spare", [-(10**8), -1, 0, 10**8])
def test_a_line_never_contradicts_itself(monkeypatch, no_network, home, spare):
    """What is free may round to just what a command needs, and yet not be enough, or the other way."""
    least = doctor.jobs(MEDGEMMA_4B)["finetune evaluate"].needs(MEDGEMMA_4B, Format("bfloat16", "8bit")).least
    monkeypatch.setattr(doctor, "total_left", lambda device: least + spare)
    told = examine(dtype="bfloat16")
    assert all(fit.fits == (fit.least_gib <= told.free_gib) for fit in told.fits)
    (found,) = (fit for fit in told.fits if (fit.command, fit.load_in) == ("finetune evaluate", "8bit"))
    assert found.fits == (spare >= 0)
    assert found.least_gib == pytest.approx(least / GIB, abs=0.11)


def test_the_command_on_a_machine_without_a_gpu(monkeypatch, called, no_network, home):
    without_gpu(monkeypatch)
    monkeypatch.setattr(doctor, "total_left", lambda device: 20 * GIB)
    code, out, err = called("interp", "doctor", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["gpus"] == []
    assert (told["dtype"], told["place"]) == ("float32", "main memory")
    assert told["login"] is False
    assert [each["access"] for each in told["repositories"]] == ["not asked"] * 3
    assert not any(each["cached"] for each in told["repositories"])
    assert str(home) not in out
    least = {each["command"]: each["least_gib"] for each in told["fits"] if each["load_in"] is None}
    assert min(least.values()) > MEDGEMMA_4B.weight_bytes("float32") / GIB - 0.1
    assert all(each["fits"] == (each["least_gib"] <= told["free_gib"]) for each in told["fits"])
    assert {each["fits"] for each in told["fits"]} == {True, False}


@pytest.mark.parametrize("capability", [None, (7, 5), (8, 9)])
def test_what_is_printed_fits_one_screen(monkeypatch, capsys, no_network, home, capability):
    if capability:
        with_gpu(monkeypatch, capability)
    else:
        without_gpu(monkeypatch)
    extras = {"notebooks": ["jupyterlab", "ipywidgets"], "quantized": ["bitsandbytes"], "reality": ["gguf"]}
    monkeypatch.setattr(doctor, "missing_extras", lambda: extras)
    states = iter(("open", "closed", "unreachable"))
    monkeypatch.setattr(doctor, "access", lambda wanted: next(states))
    show_machine(examine(online=True), results_console())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert any("run in float32; in float16 Gemma 3 overflows" in line for line in lines) == (capability == (7, 5))
    assert any("needs no GPU" in line for line in lines) == (capability is None)


def test_the_page_shows_what_is_counted():
    page = (Path(doctor.__file__).parents[1] / "runtime/README.md").read_text()
    rows = page.split("| command | bfloat16 |")[1].split("\n\n")[0].splitlines()[2:]
    shown = {}
    for row in rows:
        name, *numbers = (cell.strip(" `") for cell in row.strip("|").split("|"))
        shown[name.replace("`", "")] = [float(number) for number in numbers]
    counted = {}
    for name, job in doctor.jobs(MEDGEMMA_4B).items():
        brain, single = (
            [job.needs(MEDGEMMA_4B, Format(dtype, load_in)) for load_in in doctor.FORMATS]
            for dtype in ("bfloat16", "float32")
        )
        sizes = [*(need.least for need in brain), brain[0].wanted, *(need.least for need in single)]
        # "finetune, layers 15-19, batch 8" and "finetune, all layers, batch 8" are shown as --layers 15-19 and all.
        name = re.sub("finetune, (layers )?([^ ]+)( layers)?, batch 8", r"finetune --layers \2", name)
        counted[name] = [round(size / GIB, 1) for size in sizes]
    assert shown == counted


@pytest.mark.parametrize("here", [None, (7, 5), (8, 9)])
def test_a_card_that_is_not_here_may_lack_bfloat16(monkeypatch, capsys, called, no_network, home, here):
    """What fits on a T4 does not depend on the machine that is asked."""
    if here:
        with_gpu(monkeypatch, here)
    code, out, err = called("interp", "doctor", "--gpu-memory", "14.5", "--dtype", "float32", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["dtype"], told["free_gib"], told["assumed"]) == ("float32", 14.5, False)
    for fit in told["fits"]:
        if fit["load_in"] is None:
            # 4.3 billion weights of four bytes.
            assert fit["least_gib"] > 16
            assert not fit["fits"]
        elif fit["load_in"] == "4bit":
            assert fit["fits"]
    _, shown, _ = called("interp", "doctor", "--gpu-memory", "14.5", "--dtype", "float32")
    assert "MedGemma 4B, float32: least GPU memory" in shown
    assert "add --dtype float32" not in shown
    _, assumed, _ = called("interp", "doctor", "--gpu-memory", "14.5")
    assert "MedGemma 4B, bfloat16: least GPU memory" in assumed
    assert "For a card without bfloat16 (T4, V100, RTX 20) add --dtype float32." in assumed


def test_a_format_that_this_card_lacks_is_refused(monkeypatch, no_network, home):
    with_gpu(monkeypatch, (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(InputError, match=r"Tesla T4 has compute capability 7\.5, and bfloat16 needs 8\.0"):
        examine(dtype="bfloat16")
    with_gpu(monkeypatch, (8, 9), gib=24)
    least = {
        dtype: [fit.least_gib for fit in examine(dtype=dtype).fits if fit.load_in is None]
        for dtype in ("auto", "bfloat16", "float32")
    }
    assert least["auto"] == least["bfloat16"]
    assert all(double > 1.9 * single for single, double in zip(least["auto"], least["float32"], strict=True))


def test_a_card_decides_what_fits(monkeypatch, no_network, home):
    with_gpu(monkeypatch, (8, 9))
    told = examine()
    assert told.dtype == "bfloat16"
    for fit in told.fits:
        assert fit.fits == (fit.least_gib <= 16)
    assert all(fit.fits for fit in told.fits if fit.load_in == "4bit")
    with_gpu(monkeypatch, (7, 5))
    assert examine().dtype == "float32"
    # The weights alone take 16.0 GiB in float32.
    assert not any(fit.fits for fit in examine().fits if fit.load_in is None)
    asked = examine(gpu_memory=80)
    assert (asked.dtype, asked.free_gib) == ("bfloat16", 80)
    assert all(fit.fits for fit in asked.fits)


def test_the_shape_of_a_folder_is_used(tiny_model, no_network, home):
    from interp.model.shape import shape_of_folder

    told = examine(tiny_model)
    assert told.shape == tiny_model.name
    shape = shape_of_folder(tiny_model)
    (found,) = (fit for fit in told.fits if fit.command == "finetune evaluate" and fit.load_in == "4bit")
    least = doctor.jobs(shape)["finetune evaluate"].needs(shape, Format("float32", "4bit")).least
    assert found.least_gib == round(least / GIB, 1)


def test_weights_that_are_saved_quantized_are_counted_as_they_are(tmp_path, tiny_model, no_network, home):
    saved = shutil.copytree(tiny_model, tmp_path / "saved")
    config = json.loads((saved / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (saved / "config.json").write_text(json.dumps(config))
    plain, quantized = (examine(folder, gpu_memory=8.0).fits for folder in (tiny_model, saved))
    expected = {fit.command: fit.wanted_gib for fit in plain if fit.load_in == "4bit"}
    assert expected == {fit.command: fit.wanted_gib for fit in quantized if fit.load_in is None}


@pytest.mark.parametrize("memory", [0, -3.0, float("inf"), float("nan"), 1e308])
def test_a_card_has_some_memory(no_network, home, memory):
    with pytest.raises(InputError, match="a number of GiB above 0"):
        examine(gpu_memory=memory)


def asked_of_the_hub(monkeypatch, folder):
    """The patterns of files for which the hub's library will be asked; `folder` is what it then finds."""
    asked = []

    def snapshot_download(repo, *, allow_patterns, local_files_only, **_):
        asked.append((repo, allow_patterns, local_files_only))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("online", [False, True])
def test_medgemma_is_known_and_nothing_of_it_is_asked_for(monkeypatch, no_network, home, online, offline):
    asked = asked_of_the_hub(monkeypatch, home)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(doctor, "access", lambda wanted: "open")
    told = examine("google/medgemma-4b-it", online, gpu_memory=16)
    assert told.shape == "google/medgemma-4b-it"
    assert told.fits == examine(gpu_memory=16).fits
    assert examine("https://huggingface.co/google/medgemma-4b-it/", online, gpu_memory=16).shape == told.shape
    assert asked == []


def test_no_weights_of_a_hub_model_are_asked_for(monkeypatch, called, no_network, home, tiny_model):
    from interp.model.shape import shape_of_folder

    (home / "abc").mkdir()
    (home / "abc" / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    asked = asked_of_the_hub(monkeypatch, home / "abc")
    monkeypatch.setattr(doctor, "access", lambda wanted: "open")
    code, _, err = called("interp", "doctor", "--model", "me/tuned")
    assert (code, asked) == (2, [])
    assert "me/tuned: its config.json is not in the local cache. Add --online" in " ".join(err.split())
    told = examine("me/tuned", online=True, gpu_memory=16)
    assert asked == [("me/tuned", ["config.json"], False)]
    assert told.shape == "me/tuned"
    shape = shape_of_folder(tiny_model)
    least = doctor.jobs(shape)["finetune evaluate"].needs(shape, Format("bfloat16")).least
    assert round(least / GIB, 1) in {fit.least_gib for fit in told.fits if fit.command == "finetune evaluate"}


def test_a_cached_config_is_enough_without_a_network(monkeypatch, no_network, home, tiny_model):
    root = home / "hub/models--me--tuned"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text("abc")
    (root / "snapshots/abc").mkdir(parents=True)
    (root / "snapshots/abc/config.json").write_bytes((tiny_model / "config.json").read_bytes())
    asked = asked_of_the_hub(monkeypatch, root)
    assert examine("me/tuned", gpu_memory=16).fits == examine(tiny_model, gpu_memory=16).fits
    assert asked == []
    with pytest.raises(InputError, match="my tuned/model: no such folder, and not a hub id"):
        examine("my tuned/model")
    (root / "snapshots/abc/config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="found a model of type 'llama', expected 'gemma3'"):
        examine("me/tuned")


def test_cache_and_login_are_seen(no_network, home):
    (home / "token").write_text("hf_x")
    snapshot = home / "hub/models--google--medgemma-4b-it/snapshots/abc"
    snapshot.mkdir(parents=True)
    told = examine()
    assert told.login
    assert [each.cached for each in told.repositories] == [True, False, False]
    assert "hf_x" not in told.to_json()


@pytest.mark.parametrize(
    ("raised", "access"),
    [
        (None, "open"),
        ("GatedRepoError", "closed"),
        ("RepositoryNotFoundError", "closed"),
        ("ConnectError", "unreachable"),
    ],
)
def test_access_is_asked_of_the_hub_only_if_wanted(monkeypatch, home, raised, access):
    import huggingface_hub
    from huggingface_hub import errors

    asked = []

    def auth_check(self, repo, *, repo_type):
        asked.append((repo, repo_type))
        if raised == "ConnectError":
            raise type("ConnectError", (Exception,), {})("no network")
        if raised:
            kind = getattr(errors, raised)
            raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", auth_check)
    examine()
    assert asked == []
    assert {each.access for each in examine(online=True).repositories} == {access}
    assert asked[0] == ("google/medgemma-4b-it", "model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert {each.access for each in examine(online=True).repositories} == {"not asked"}
    assert len(asked) == len(hub_access.WANTED)


def test_facts_about_the_machine(monkeypatch, tmp_path):
    assert 0 < free_space(tmp_path / "not" / "there") == free_space(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert from_home(tmp_path / "a") == "~/a"
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Wed Jan 7\n")
    monkeypatch.setattr("interp.runtime.machine.DRIVER_FILE", tmp_path / "version")
    assert driver_version() == "580.159.04"
    monkeypatch.setattr("interp.runtime.machine.DRIVER_FILE", tmp_path / "none")
    assert driver_version() is None
    monkeypatch.setattr(
        "importlib.metadata.requires",
        lambda name: ["torch>=2", 'nosuchpackage>=1; extra == "quantized"', 'pytest>=8; extra == "test"'],
    )
    assert missing_extras() == {"quantized": ["nosuchpackage"]}

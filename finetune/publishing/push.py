"""Publishing an adapter on the hub: it is staged in a temporary folder, shown, and then sent exactly as shown."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from finetune.lora.adapter_folder import AdapterRecord, check_adapter, read_record
from finetune.lora.processor_files import PROCESSOR_FILES
from finetune.publishing.card import THIS_ADAPTER, Base, parse_card, with_base
from interp.runtime.errors import InputError, first_line
from interp.storage.hub import HUB
from interp.storage.json_files import read_object

FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors", "evaluation.json", "gatescope.json")
"""The files that are sent, and PROCESSOR_FILES where they exist; no others ever are."""
EMPTY_FORM = "[More Information Needed]"
"""Placeholder in the card template that peft writes."""


class Package(NamedTuple):
    """An adapter, ready to be sent."""

    repo: str
    """Name of the repository, owner/name."""
    private: bool
    """Whether the repository is private."""
    folder: Path
    """Folder that holds FILES, the files of the processor, and nothing else."""
    notes: list[str]
    """What to consider before sending it, one or two sentences each."""


@contextmanager
def staged(adapter: Path, repo: str, public: bool = False, base_model: str | None = None) -> Iterator[Package]:
    """Copy what is to be published of an adapter folder into a temporary folder, which is deleted after the block.

    In the copies, `base_model` replaces the base that the adapter names. Raises InputError for bad names, for a folder
    that is not a complete adapter with its card, and if a path of this machine would be published.
    """
    _check_hub_id("REPO", repo)
    if base_model is not None:
        _check_hub_id("--base-model", base_model)
    record = _checked_record(adapter)
    config = read_object(adapter / "adapter_config.json")
    named = config.get("base_model_name_or_path")
    if base_model is None and (record.model.revision is None or not _is_hub_id(str(named))):
        raise InputError(
            f"{adapter}: its base model is a folder on this machine ({named}), which nobody else can load. Give the "
            "base's hub id, as --base-model google/medgemma-4b-it."
        )
    card = _text(adapter / "README.md")
    if base_model is not None:
        config["base_model_name_or_path"] = base_model
        revision = record.model.revision if base_model == record.model.id else None
        card = with_base(card, Base(base_model, True, revision), (adapter / "processor_config.json").is_file())
    public_record = record.model_copy(update={"text_hashes": []})
    texts = {
        "README.md": card.replace(THIS_ADAPTER, repo),
        "adapter_config.json": json.dumps(config, indent=2, sort_keys=True),
        "evaluation.json": _text(adapter / "evaluation.json"),
        "gatescope.json": public_record.model_dump_json(indent=2) + "\n",
    }
    processor = [name for name in PROCESSOR_FILES if (adapter / name).is_file()]
    texts |= {name: _text(adapter / name) for name in processor if name != "tokenizer.model"}
    _refuse_paths(texts, adapter, str(named))
    notes = _notes(adapter, record, texts, named if base_model not in (None, named) else None)
    with tempfile.TemporaryDirectory(prefix="gatescope-push-") as name:
        folder = Path(name)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        for file in ("adapter_model.safetensors", *(name for name in processor if name not in texts)):
            shutil.copyfile(adapter / file, folder / file)
        yield Package(repo, not public, folder, notes)


def description(package: Package) -> str:
    """What would be sent and where to, as text for the terminal."""
    files = [f"  {name:<28}{size:>14,} bytes" for name, size in _sizes(package).items()]
    card = (package.folder / "README.md").read_text(encoding="utf-8")
    front_matter = [f"  {line}" for line in card.split("\n---", 1)[0].splitlines()[1:]]
    notes = [f"  - {note}" for note in package.notes]
    visibility = "private" if package.private else "PUBLIC"
    parts = {"Files": files, "Front matter of the card": front_matter, "To note": notes}
    blocks = [f"{heading}:\n" + "\n".join(lines) for heading, lines in parts.items()]
    return "\n\n".join([f"Repository: {package.repo} ({visibility})", *blocks]) + "\n"


def content_of(package: Package) -> dict[str, Any]:
    """What would be sent and where to, as JSON: files with their size in bytes."""
    return {"repo": package.repo, "private": package.private, "files": _sizes(package), "notes": package.notes}


def _sizes(package: Package) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(package.folder.iterdir())}


def send(package: Package) -> str:
    """Create the repository if necessary, upload the package, and return the address of its page.

    Raises InputError if the hub refuses or cannot be reached, or if the repository exists with another visibility.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _hub_errors(package.repo):
        api.create_repo(repo_id=package.repo, private=package.private, exist_ok=True)
        # A repository that existed before keeps its visibility, whatever is requested here.
        found = bool(api.model_info(package.repo).private)
    if found != package.private:
        raise InputError(
            f"{package.repo}: exists and is {'private' if found else 'public'}, so nothing was sent. "
            + ("Leave out --public" if found else "Give --public")
            + ", change it in the repository's settings, or choose another name."
        )
    with _hub_errors(package.repo):
        api.upload_folder(
            repo_id=package.repo, folder_path=str(package.folder), commit_message="Adapter, card and evaluation"
        )
    return f"{HUB}/{package.repo}"


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    # The hub's own rule accepts a bare name without an owner.
    return name.count("/") == 1


def _check_hub_id(option: str, name: str) -> None:
    if not _is_hub_id(name):
        raise InputError(
            f"{option} {name!r}: not the name of a model repository. Give owner/name, with letters, digits, '-', '_' "
            "and '.', as google/medgemma-4b-it."
        )


def _checked_record(adapter: Path) -> AdapterRecord:
    """The record of a folder that holds all of FILES, with readable weights and a card without blanks."""
    from safetensors import SafetensorError, safe_open

    check_adapter(adapter)
    for name in ("gatescope.json", "evaluation.json"):
        if not (adapter / name).is_file():
            raise InputError(f"{adapter}: no {name} there. Give the folder that `finetune --out` wrote.")
    card = adapter / "README.md"
    if not card.is_file():
        raise InputError(f"{adapter}: no card (README.md) there, and nothing is published without one. Put it back.")
    text = _text(card)
    parse_card(text)
    if EMPTY_FORM in text:
        raise InputError(f"{card}: still has blanks ({EMPTY_FORM}). Fill them in or remove them.")
    try:
        with safe_open(adapter / "adapter_model.safetensors", "numpy"):
            pass
    except SafetensorError as error:
        raise InputError(f"{adapter / 'adapter_model.safetensors'}: damaged ({error}).") from None
    record = read_record(adapter)
    assert record is not None, "gatescope.json is there"
    return record


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8 ({error}).") from None


def _refuse_paths(texts: dict[str, str], adapter: Path, base: str) -> None:
    """Raise InputError if a text contains the path of the home folder, of the adapter or of its local base."""
    # In some containers the home folder is "/", which occurs in every web address.
    home = [f"{Path.home()}/"] if len(Path.home().parts) > 1 else []
    paths = [*home, str(adapter.resolve()), *([base] if Path(base).is_absolute() else [])]
    for name, text in texts.items():
        for path in paths:
            if path in text:
                raise InputError(f"{adapter / name}: contains {path!r}, a path of this machine. Remove it first.")


def _notes(adapter: Path, record: AdapterRecord, texts: dict[str, str], replaced: str | None) -> list[str]:
    verdict = str(read_object(adapter / "evaluation.json").get("verdict"))
    left = sorted(path.name for path in adapter.iterdir() if path.name not in (*FILES, *PROCESSOR_FILES))
    notes = [
        f"Trained on {record.questions} questions of {record.patients} patients: make sure that the terms of these "
        "data and of the base model allow publishing the adapter."
    ]
    if not verdict.startswith("Improved:"):
        notes.append(f"The evaluation does not simply call it improved. {verdict}")
    if not parse_card(texts["README.md"]).data.get("license"):
        notes.append(
            "The card names no licence, because the terms of the base are not known. Add `license` to its front matter."
        )
    if replaced is not None:
        notes.append(f"In what is sent, configuration and card name the base by its hub id instead of {replaced}.")
    if record.text_hashes:
        notes.append(
            f"gatescope.json is sent without its {len(record.text_hashes)} hashes of training texts, because "
            "guessed texts could be tested against them."
        )
    if "processor_config.json" not in texts:
        notes.append(
            "The folder holds no processor, so users load that of the base. Folders written by `finetune` now hold one."
        )
    if left:
        notes.append(f"Left out: {', '.join(left)}.")
    return notes


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    try:
        yield
    # The hub's library, its HTTP client and its transfer engine each raise their own types of errors.
    except Exception as error:
        raise InputError(f"{repo}: the upload failed: {_why(error)} Repeat the same command to try again.") from None


def _why(error: Exception) -> str:
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "you are not logged in, or your token is not valid. Log in with `hf auth login`."
    if status == 403:
        return "your token may not write there. Check the name of the owner and that the token has write permission."
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids using the network. Unset it."
    if isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, HTTPError) and status is None):
        return "the hub cannot be reached. Check the network."
    reason, kind = first_line(error), type(error).__name__
    return f"{kind}: {reason}." if reason != kind else f"{kind}."

"""The files of a processor beside an adapter, so that `AutoProcessor.from_pretrained(adapter)` works."""

import json
from pathlib import Path
from typing import Any

from interp.storage.atomic import write_text

PROCESSOR_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
"""The files that processors and tokenizers are saved in; not all of them exist for one processor."""
OF_THIS_MACHINE = frozenset(
    {"_name_or_path", "auto_map", "is_local", "local_files_only", "name_or_path", "tokenizer_file", "vocab_file"}
)
"""Settings that say where the files came from, as a path of this machine, and are not needed to load them."""


def write_processor(folder: Path, processor: Any) -> None:
    """Write the files of a processor into an existing folder, without paths of this machine."""
    processor.save_pretrained(str(folder))
    for name in ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            content = _without_places(json.loads(path.read_text(encoding="utf-8")))
            write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _without_places(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {name: _without_places(value) for name, value in content.items() if name not in OF_THIS_MACHINE}

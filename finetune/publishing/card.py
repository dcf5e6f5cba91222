"""The model card of an adapter: the README.md that the hub and peft's users expect, made of its own record."""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune.evaluation.evaluate import Evaluation
from finetune.lora.adapter_folder import AdapterRecord
from interp.model.prompts import DEFAULT_STYLE, PromptStyle
from interp.runtime.errors import InputError
from interp.schemas.layer_list import layers_text
from interp.views.tables.evaluation import measures_table

if TYPE_CHECKING:
    from huggingface_hub import ModelCard
    from jinja2 import Template

BASE_HEADING = "## Base model, loading, licence"
"""The one section that depends on the base."""
THIS_ADAPTER = "path/to/this/adapter"
"""Stands in the lines of code for the adapter until it has a name on the hub."""
TAGS = ["lora", "gatescope", "medical", "robustness"]


class Licence(NamedTuple):
    """Terms that go with a base and with what is made of it."""

    name: str
    """As the front matter names them."""
    title: str
    """As a reader knows them."""
    link: str
    """Where they are published."""
    notice: str
    """What their owner wants said of a copy."""


LICENCES = {
    "medgemma": Licence(
        "health-ai-developer-foundations",
        "Health AI Developer Foundations Terms of Use",
        "https://developers.google.com/health-ai-developer-foundations/terms",
        "HAI-DEF is provided under and subject to the Health AI Developer Foundations Terms of Use.",
    ),
    "gemma": Licence(
        "gemma",
        "Gemma Terms of Use",
        "https://ai.google.dev/gemma/terms",
        "Gemma is provided under and subject to the Gemma Terms of Use.",
    ),
}
"""By a part of the base's name, the narrower first."""


class Base(NamedTuple):
    """The base model as a card may name it."""

    name: str
    """Hub id, or the bare name of a local folder."""
    on_hub: bool
    """Whether `name` is a hub id."""
    revision: str | None
    """Commit of the hub repository, None if unknown."""


def base_of_record(record: AdapterRecord) -> Base:
    """The base that an adapter was trained on, without the path of a local one."""
    revision = record.model.revision
    if revision is None:
        # Only what came from the hub has a commit. The class knows both kinds of separators.
        return Base(PureWindowsPath(record.model.id).name, False, None)
    return Base(record.model.id, True, revision)


def licence_of(base: Base) -> Licence | None:
    """The terms of a base whose name says what it was made of, else None."""
    return next((licence for part, licence in LICENCES.items() if part in base.name.lower()), None)


def base_metadata(base: Base) -> dict[str, str]:
    """The front matter that depends on the base; a local one is not named, as nobody else could find it."""
    licence = licence_of(base)
    named = {"base_model": base.name} if base.on_hub else {}
    if licence is None:
        return named
    return named | {"license": "other", "license_name": licence.name, "license_link": licence.link}


def model_card(record: AdapterRecord, evaluation: Evaluation) -> str:
    """The README.md of an adapter: front matter and text; no path, and nothing of the questions but counts."""
    from huggingface_hub import ModelCardData

    base = base_of_record(record)
    metadata: dict[str, Any] = base_metadata(base)
    front_matter = ModelCardData(**metadata, library_name="peft", pipeline_tag="image-text-to-text", tags=TAGS)
    return _template().render(
        **_base_variables(base),
        front_matter=front_matter.to_yaml(),
        record=record,
        evaluation=evaluation,
        layers=layers_text(record.layers),
        by_hand=record.layers_from.startswith("--"),
        layers_from=file_names_only(record.layers_from),
        grounding=grounding_text(record.settings),
        prompt=PromptStyle(**record.prompt.model_dump()),
        plain=DEFAULT_STYLE,
        rows=[[cell.text for cell in row] for row in measures_table(evaluation, evaluation.shown[:1]).rows],
        software=", ".join(f"{name} {version}" for name, version in record.software.items()),
    )


def with_base(card: str, base: Base) -> str:
    """The card with another base in its front matter and in its section on the base; all else stays as it is.

    Raises InputError for a card whose front matter is unreadable, or that lost that section.
    """
    parsed = parse_card(card)
    for key, value in base_metadata(base).items():
        parsed.data[key] = value
    template = _template()
    section = "".join(template.blocks["base"](template.new_context(_base_variables(base))))
    # Up to the next heading of the same level; a function, as the text is no pattern.
    pattern = rf"^{re.escape(BASE_HEADING)}$.*?(?=^## |\Z)"
    parsed.text, found = re.subn(pattern, lambda _: section, parsed.text, flags=re.MULTILINE | re.DOTALL)
    if not found:
        raise InputError(f"README.md: no section '{BASE_HEADING}' to name the base in. Add that heading again.")
    return str(parsed)


def parse_card(card: str) -> "ModelCard":
    """Front matter and text of a card. Raises InputError if the front matter is absent or unreadable."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if not card.startswith("---\n"):
        raise InputError("README.md: does not begin with front matter, a block of YAML between two lines of '---'.")
    try:
        return ModelCard(card)
    except (YAMLError, ValueError, TypeError) as error:
        raise InputError(f"README.md: unreadable front matter ({str(error).splitlines()[0]}).") from None


def grounding_text(settings: Mapping[str, Any]) -> str:
    """The grounding term of a record's settings in short: none, as before there was one, or swap, weight 1.0."""
    kind = settings.get("grounding", "none")
    return kind if kind == "none" else f"{kind}, weight {settings['grounding_weight']}"


def file_names_only(text: str) -> str:
    """The text with every path in it cut to its last part."""
    return re.sub(r"\S*[/\\]", "", text)


def _base_variables(base: Base) -> dict[str, Any]:
    return {"base": base, "licence": licence_of(base), "base_heading": BASE_HEADING, "this_adapter": THIS_ADAPTER}


def code_span(text: str) -> str:
    """A text as Markdown shows it letter by letter, between as many backticks as it takes."""
    line = " ".join(text.split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{ticks}{line}{ticks}" if len(ticks) == 1 else f"{ticks} {line} {ticks}"


def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    settings = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    # Names of folders, and what a layers.json from elsewhere says, are no Markdown and no Python.
    settings.filters |= {"code": code_span, "string": json.dumps}
    return settings.from_string((files("finetune.publishing") / "card.md.j2").read_text(encoding="utf-8"))

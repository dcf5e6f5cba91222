"""The model card of an adapter: the README.md that the hub and users of peft expect, written from its record."""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune.evaluation.result import Evaluation
from finetune.lora.adapter_folder import AdapterRecord
from interp.model.prompts import DEFAULT_STYLE, PromptStyle
from interp.runtime.errors import InputError, first_line
from interp.schemas.layer_list import layers_text
from interp.views.tables.evaluation import measures_table
from interp.views.tables.training import epochs_table

if TYPE_CHECKING:
    from huggingface_hub import ModelCard
    from jinja2 import Template

BASE_HEADING = "## Base model, loading, licence"
"""The one section that depends on the base."""
THIS_ADAPTER = "path/to/this/adapter"
"""Placeholder for the adapter in the example code, until it has a name on the hub."""
TAGS = ["lora", "gatescope", "medical", "robustness"]


class Licence(NamedTuple):
    """The terms of a base model, which also apply to its derivatives."""

    name: str
    """Name of the licence in the front matter."""
    title: str
    """Title of the terms."""
    link: str
    """Address of the terms."""
    notice: str
    """Notice that the owner requires on copies."""


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
"""Part of the name of a base -> its licence; narrower parts come first."""


class Base(NamedTuple):
    """The base model in the form that a card may name."""

    name: str
    """Hub id, or the bare name of a local folder."""
    on_hub: bool
    """Whether `name` is a hub id."""
    revision: str | None
    """Commit of the hub repository; None if unknown."""


def base_of_record(record: AdapterRecord) -> Base:
    """The base that an adapter was trained on, without the path of a local one."""
    revision = record.model.revision
    if revision is None:
        # Only models from the hub have a commit. PureWindowsPath splits at both kinds of separators.
        return Base(PureWindowsPath(record.model.id).name, False, None)
    return Base(record.model.id, True, revision)


def licence_of(base: Base) -> Licence | None:
    """The licence of a base, recognised by its name; None if it is not."""
    return next((licence for part, licence in LICENCES.items() if part in base.name.lower()), None)


def base_metadata(base: Base) -> dict[str, str]:
    """The front matter that depends on the base; a local one is not named, as nobody else could find it."""
    licence = licence_of(base)
    named = {"base_model": base.name} if base.on_hub else {}
    if licence is None:
        return named
    return named | {"license": "other", "license_name": licence.name, "license_link": licence.link}


def model_card(record: AdapterRecord, evaluation: Evaluation) -> str:
    """The README.md of an adapter: front matter and text. It contains no path, and of the questions only counts."""
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
        course=epochs_table(record),
        prompt=PromptStyle(**record.prompt.model_dump()),
        plain=DEFAULT_STYLE,
        rows=[[cell.text for cell in row] for row in measures_table(evaluation, evaluation.shown[:1]).rows],
        software=", ".join(f"{name} {version}" for name, version in record.software.items()),
    )


def with_base(card: str, base: Base, own_processor: bool = True) -> str:
    """The card with another base in its front matter and in its section on the base; the rest is unchanged.

    Without `own_processor`, as in folders of earlier versions, the processor is loaded from the base.

    Raises InputError if the front matter is unreadable or that section is missing.
    """
    parsed = parse_card(card)
    for key, value in base_metadata(base).items():
        parsed.data[key] = value
    template = _template()
    section = "".join(template.blocks["base"](template.new_context(_base_variables(base, own_processor))))
    # Up to the next heading of the same level. A function, because the new text is not a pattern.
    pattern = rf"^{re.escape(BASE_HEADING)}$.*?(?=^## |\Z)"
    parsed.text, found = re.subn(pattern, lambda _: section, parsed.text, flags=re.MULTILINE | re.DOTALL)
    if not found:
        raise InputError(
            f"README.md: the section '{BASE_HEADING}', which names the base, is missing. Add that heading again."
        )
    return str(parsed)


def parse_card(card: str) -> "ModelCard":
    """Parse the front matter and the text of a card. Raises InputError if the front matter is missing or unreadable."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if not card.startswith("---\n"):
        raise InputError(
            "README.md: does not begin with front matter, which is a block of YAML between two lines of '---'."
        )
    try:
        return ModelCard(card)
    except (YAMLError, ValueError, TypeError) as error:
        raise InputError(f"README.md: unreadable front matter ({first_line(error)}).") from None


def grounding_text(settings: Mapping[str, Any]) -> str:
    """The grounding term of recorded settings, as "swap, weight 1.0"; "none" for records from before it existed."""
    kind = settings.get("grounding", "none")
    return kind if kind == "none" else f"{kind}, weight {settings['grounding_weight']}"


def file_names_only(text: str) -> str:
    """The text with every path shortened to its last part."""
    return re.sub(r"\S*[/\\]", "", text)


def _base_variables(base: Base, own_processor: bool = True) -> dict[str, Any]:
    return {
        "base": base,
        "licence": licence_of(base),
        "base_heading": BASE_HEADING,
        "this_adapter": THIS_ADAPTER,
        "processor_from": THIS_ADAPTER if own_processor else base.name,
    }


def code_span(text: str) -> str:
    """The text as a Markdown code span, with enough backticks to show it literally."""
    line = " ".join(text.split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{ticks}{line}{ticks}" if len(ticks) == 1 else f"{ticks} {line} {ticks}"


def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    settings = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    # Folder names and the content of a layers.json from elsewhere must not act as Markdown or Python.
    settings.filters |= {"code": code_span, "string": json.dumps}
    return settings.from_string((files("finetune.publishing") / "card.md.j2").read_text(encoding="utf-8"))

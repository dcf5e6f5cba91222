"""Help pages with the options in groups: what most users set first, then model, data and SAEs, then the rest."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

MAIN, MODEL, DATA, SAES, TRAINING, OUTPUT, ADVANCED = (
    "Options",
    "Model options",
    "Data options",
    "SAE options",
    "Training options",
    "Output options",
    "Advanced options",
)
"""Titles of the groups, in their order."""
ORDER = ("Arguments", MAIN, DATA, MODEL, SAES, TRAINING, OUTPUT, ADVANCED)
"""The sections of a help page."""
OF_SETTINGS = {"ModelSpec": MODEL, "DataSpec": DATA, "SaeSpec": SAES, "TrainSettings": TRAINING, "ItemsKept": OUTPUT}
"""Dataclass whose fields are options -> their group; the options of others are in the first group."""
OUTPUT_OPTIONS = ("out", "figure", "json", "verbose", "resume", "help")
"""Parameters that many commands share and that are in the group of the output."""


def _write_groups(command: Any, context: Any, formatter: Any) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        named = getattr(parameter, "rich_help_panel", None) or (OUTPUT if parameter.name in OUTPUT_OPTIONS else MAIN)
        groups.setdefault("Arguments" if parameter.param_type_name == "argument" else named, []).append(record)
    for title in [*(name for name in ORDER if name in groups), *(name for name in groups if name not in ORDER)]:
        with formatter.section(title):
            formatter.write_dl(groups[title])


class GroupedCommand(TyperCommand):
    """A command whose help page groups its options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section for each group."""
        _write_groups(self, ctx, formatter)


class GroupedGroup(TyperGroup):
    """A command with subcommands whose help page groups its own options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section for each group, then the subcommands."""
        _write_groups(self, ctx, formatter)
        self.format_commands(ctx, formatter)

"""Commands whose options are the fields of dataclasses, so that no option is declared twice."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from interp.cli.grouped_help import ADVANCED, OF_SETTINGS
from interp.runtime.options import option_of

Command = Callable[..., None]


def with_options(*, without: Collection[str] = (), **changed: Any) -> Callable[[Command], Command]:
    """Replace every parameter of a command that is annotated with a dataclass by an option for each of its fields.

    The command gets an instance made of the values that were given. Fields in `without`, as `seed` or as
    `training.seed` for those of one parameter only, keep their defaults and are not offered. Those in `changed` have an
    `interp.runtime.options.option` of this command's own, with another default or help text.
    """

    def decorate(command: Command) -> Command:
        taken: dict[str, tuple[type, list[str]]] = {}
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            settings = parameter.annotation
            if not hasattr(settings, "__dataclass_fields__"):
                parameters.append(parameter)
                continue
            kinds = get_type_hints(settings)
            group = OF_SETTINGS.get(settings.__name__)
            offered = [_parameter(f, kinds[f.name], changed.get(f.name, f), group) for f in fields(settings)]
            left_out = {name.removeprefix(f"{parameter.name}.") for name in without}
            own = [p for p in offered if p is not None and p.name not in left_out]
            taken[parameter.name] = settings, [p.name for p in own]
            parameters += own

        def spread(**given: Any) -> None:
            made = {name: cls(**{each: given.pop(each) for each in own}) for name, (cls, own) in taken.items()}
            command(**made, **given)

        spread.__name__, spread.__doc__ = command.__name__, command.__doc__
        # Where typer looks for the parameters. No __wrapped__: these are not the parameters of the command itself.
        spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        spread.__annotations__ = {p.name: p.annotation for p in parameters}
        return spread

    return decorate


def _parameter(own: "Field[Any]", kind: Any, declared: "Field[Any]", group: str | None) -> inspect.Parameter | None:
    """The parameter that typer makes an option of; None for a field that the command line does not offer."""
    option = option_of(declared)
    if option is None or not option.on_command_line:
        return None
    if kind in (str | Path, str | Path | None):
        # Typer can make neither from such a type.
        of = Path if option.path else str
        kind = of | None if kind == str | Path | None else of
    shown = typer.Option(
        *option.flags,
        help=option.help,
        min=option.min,
        max=option.max,
        show_default=option.shown or True,
        rich_help_panel=ADVANCED if option.advanced else group,
    )
    return inspect.Parameter(
        own.name, inspect.Parameter.KEYWORD_ONLY, default=declared.default, annotation=Annotated[kind, shown]
    )

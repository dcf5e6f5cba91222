"""Settings that are declared once: their ranges in Python, and the options that a command makes of them."""

import math
from dataclasses import dataclass
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner

from finetune.ablation.settings import AblationSettings
from finetune.cli import app as finetune_cli
from finetune.lora.settings import TrainSettings
from interp.cli import app as interp_cli
from interp.cli.dataclass_options import with_options
from interp.runtime.errors import InputError
from interp.runtime.options import check_options, help_of, option


@dataclass(frozen=True)
class Brew:
    """Settings to test with."""

    minutes: int = option(3, "Time in the pot [min].", min=1)
    strength: float = option(0.5, "Share of leaves.", above=0, below=1)
    kind: Literal["green", "black"] = option("green", "Kind of tea.")
    sugar: int | None = option(None, "Pieces of sugar.", max=3, shown="none")
    secret: int = option(7, "Only from Python.", on_command_line=False)
    seed: int = option(0, "Seed of the guests.", min=0)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Guests:
    """Settings with a field of the same name."""

    count: int = option(2, "Number of guests.")
    seed: int = option(5, "Another seed.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0}, "minutes is 0, expected at least 1."),
        ({"strength": 1.0}, "strength is 1.0, expected above 0 and below 1."),
        ({"strength": math.nan}, "strength is nan, expected above 0 and below 1."),
        ({"kind": "herbal"}, "kind is 'herbal', expected one of green, black."),
        ({"sugar": 4}, "sugar is 4, expected at most 3."),
    ],
)
def test_a_value_outside_its_range_is_refused(changes, message):
    with pytest.raises(InputError) as refused:
        Brew(**changes)
    assert str(refused.value) == message


def called(*arguments, **decoration):
    """What a command with the options of both dataclasses gets, and its help page."""
    got = []

    @with_options(**decoration)
    def command(*, brew: Brew, hot: bool = False, guests: Guests) -> None:
        """Make tea."""
        got.append((brew, hot, guests))

    app = typer.Typer(rich_markup_mode=None)
    app.command()(command)
    done = CliRunner().invoke(app, arguments)
    return (got[0] if got else None), done.output, done.exit_code


def test_a_command_gets_instances_of_its_dataclasses():
    got, _, code = called("--minutes", "5", "--kind", "black", "--hot", "--count", "4", without=("guests.seed",))
    assert code == 0
    assert got == (Brew(minutes=5, kind="black"), True, Guests(count=4))
    got, _, _ = called("--seed", "9", without=("guests.seed",))
    assert (got[0].seed, got[2].seed) == (9, 5)


def test_a_command_can_leave_options_out_and_change_them():
    changed = option(10, "Steep longer.", flags=("--time",))
    got, _, _ = called(without=("seed",), minutes=changed)
    assert got[0] == Brew(minutes=10)
    got, _, _ = called("--time", "4", without=("seed",), minutes=changed)
    assert got[0] == Brew(minutes=4)
    _, page, _ = called("--help", without=("seed",), minutes=changed)
    assert "Steep longer." in page
    assert "Pieces of sugar." in page
    for absent in ("--minutes", "--seed", "--secret"):
        assert absent not in page
    assert called("--minutes", "4", without=("seed",), minutes=changed)[2] == 2


def test_help_and_bounds_come_from_the_declaration():
    _, page, _ = called("--help", without=("guests.seed",))
    words = " ".join(page.split())
    assert "Time in the pot [min]. [default: 3; x>=1]" in words
    assert "Pieces of sugar. [default: (none); x<=3]" in words
    assert called("--minutes", "0", without=("guests.seed",))[2] == 2
    assert help_of(TrainSettings, "lr") == "Peak learning rate of AdamW."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # torch has no such seed, and no such number.
        ({"seed": 2**64}, "seed is 18446744073709551616, expected at least 0 and at most 4294967295."),
        ({"batch_size": 10**23}, "batch_size is 1"),
        ({"lr": 1e300}, "lr is 1e+300, expected above 0 and at most 1."),
    ],
)
def test_numbers_that_torch_cannot_hold_are_refused(changes, message):
    with pytest.raises(InputError) as refused:
        TrainSettings(**changes)
    assert str(refused.value).startswith(message)
    with pytest.raises(InputError, match="expected different ones from 0 to 4294967295"):
        AblationSettings(seeds=(2**64,))


def test_every_command_that_takes_a_seed_refuses_one_that_is_too_large():
    pages = [(interp_cli.app, name.split()) for name in (*interp_cli.COMMANDS, "demo build", "demo plant")]
    pages += [(finetune_cli.app, name.split()) for name in ("", *finetune_cli.COMMANDS)]
    shown = [" ".join(CliRunner().invoke(app, [*name, "--help"]).output.split()) for app, name in pages]
    seeds = [page for page in shown if "--seed " in page]
    assert len(seeds) > 10
    assert all("0<=x<=4294967295" in page for page in seeds)

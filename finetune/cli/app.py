"""The `finetune` command: it trains, unless a subcommand is named."""

import sys

import typer

from finetune.cli.ablate import ablate_command
from finetune.cli.benchmark import benchmark_command
from finetune.cli.evaluate import evaluate_command
from finetune.cli.grounding import grounding_command
from finetune.cli.push import push_command
from finetune.cli.train import train_command
from finetune.cli.verify import verify_command
from interp.cli.grouped_help import GroupedCommand, GroupedGroup
from interp.cli.guard import HELP, PLAIN, command
from interp.cli.meant import check_subcommand
from interp.cli.process import run_process
from interp.cli.renamed import current_arguments
from interp.runtime.distributed import require_single_process

PATHS = "`finetune evaluate {path}` compares an adapter with its base; `finetune --layers-from {path}` trains."
"""What to run for a path that was given without a command."""

app = typer.Typer(cls=GroupedGroup, rich_markup_mode=PLAIN, pretty_exceptions_enable=False, context_settings=HELP)
app.callback(invoke_without_command=True)(train_command)
app.command("evaluate", cls=GroupedCommand, short_help="Compare adapters and clamps with their base.")(evaluate_command)
app.command("benchmark", cls=GroupedCommand, short_help="Measure any vision-language model.")(benchmark_command)
app.command("ablate", cls=GroupedCommand, short_help="Did the choice of layers matter?")(ablate_command)
app.command("verify", cls=GroupedCommand, short_help="Check an adapter against its base and questions.")(verify_command)
app.command("grounding", cls=GroupedCommand, short_help="Where does the model look? Are the maps faithful?")(
    grounding_command
)
app.command("push", cls=GroupedCommand, short_help="Publish an adapter on the hub, after a preview.")(push_command)

COMMANDS = [command.name or "" for command in app.registered_commands]


def main() -> None:
    """Entry point of `finetune`: bad input becomes one paragraph on stderr and exit code 2."""
    with command():
        check_subcommand("finetune", sys.argv[1:], COMMANDS, PATHS)
        if sys.argv[1:2] and sys.argv[1] in ("evaluate", "benchmark", "grounding", "push"):
            require_single_process(f"finetune {sys.argv[1]}")
        app(current_arguments("finetune", sys.argv[1:]))


def run() -> None:
    """Entry point of `finetune`: `main` as a process of its own."""
    run_process(main)


if __name__ == "__main__":
    run()

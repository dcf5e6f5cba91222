"""The `interp` command."""

import sys

import typer

from interp.cli.compare import compare_command
from interp.cli.demo import demo_build_command, demo_plant_command
from interp.cli.doctor import doctor_command
from interp.cli.export import export_command
from interp.cli.export_activations import export_activations_command
from interp.cli.find_features import find_features_command
from interp.cli.grouped_help import GroupedCommand
from interp.cli.guard import HELP, PLAIN, command
from interp.cli.meant import check_subcommand
from interp.cli.options import Version
from interp.cli.outputs import figures_command, report_command, scrub_command
from interp.cli.process import run_process
from interp.cli.questions import import_questions_command, paraphrase_command
from interp.cli.renamed import current_arguments
from interp.cli.schemas import schemas_command
from interp.cli.test_feature import study_feature_command
from interp.cli.transfer_check import transfer_check_command
from interp.cli.verify import verify_command
from interp.runtime.distributed import require_single_process

PATHS = "`interp report {path}` shows the folder of a run, `interp find-features --questions {path}` searches."
"""What to run for a path that was given without a command."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=PLAIN,
    context_settings=HELP,
)
demo_app = typer.Typer(no_args_is_help=True, rich_markup_mode=PLAIN, help="Build worlds whose gate is known.")
app.add_typer(demo_app, name="demo")


@app.callback()
def interp(version: Version = False) -> None:
    """Find the features and layers that make a vision-language model flip when a question is reworded."""


app.command("find-features", cls=GroupedCommand, short_help="Find the features and layers that cause the flips.")(
    find_features_command
)
app.command("test-feature", cls=GroupedCommand, short_help="Study one feature: does it cause the flips?")(
    study_feature_command
)
app.command("transfer-check", cls=GroupedCommand, short_help="Do the SAEs of one model describe another?")(
    transfer_check_command
)
app.command("compare", cls=GroupedCommand, short_help="What changed between two searches or evaluations?")(
    compare_command
)
app.command("report", cls=GroupedCommand, short_help="Write a run into one HTML file.")(report_command)
app.command("figures", cls=GroupedCommand, short_help="Draw the figures of a run again, also for print.")(
    figures_command
)
app.command("export", cls=GroupedCommand, short_help="List features under their names on Neuronpedia.")(export_command)
app.command("export-activations", cls=GroupedCommand, short_help="Write activations for sae-dashboard or delphi.")(
    export_activations_command
)
app.command("scrub", cls=GroupedCommand, short_help="Look for private data before sharing a folder.")(scrub_command)
app.command("verify", cls=GroupedCommand, short_help="Check a run against its model and questions.")(verify_command)
app.command("doctor", cls=GroupedCommand, short_help="What this machine has, and what will fit.")(doctor_command)
app.command("schemas", cls=GroupedCommand, short_help="Write the JSON Schemas of all artifacts.")(schemas_command)
app.command("import-questions", cls=GroupedCommand, short_help="Convert a published data set into questions.")(
    import_questions_command
)
app.command("paraphrase", cls=GroupedCommand, short_help="Add rule-based paraphrases to questions.")(paraphrase_command)
demo_app.command("build", cls=GroupedCommand, short_help="Build a world with a gate of your choice.")(
    demo_build_command
)
demo_app.command("plant", cls=GroupedCommand, short_help="Plant a gate that reads a feature of your choice.")(
    demo_plant_command
)

COMMANDS = [*(command.name or "" for command in app.registered_commands), "demo"]


def main() -> None:
    """Entry point of `interp`: bad input becomes one paragraph on stderr and exit code 2."""
    with command():
        check_subcommand("interp", sys.argv[1:], COMMANDS, PATHS)
        if sys.argv[1:2] and sys.argv[1] != "find-features":
            require_single_process(f"interp {sys.argv[1]}")
        app(current_arguments("interp", sys.argv[1:]))


def run() -> None:
    """Entry point of `interp`: `main` as a process of its own."""
    run_process(main)


if __name__ == "__main__":
    run()

"""The `interp` command."""

import sys

import typer

from interp.commands.data import import_questions_command, paraphrase_command
from interp.commands.demo import demo_build_command
from interp.commands.find_features import find_features_command
from interp.commands.results import figures_command, report_command, scrub_command
from interp.commands.study_feature import study_feature_command
from interp.commands.transfer_check import transfer_check_command
from interp.entry import command
from interp.processes import refuse_several

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find the features and layers that make a vision-language model flip when a question is reworded.",
)
demo_app = typer.Typer(no_args_is_help=True, help="The embedded world, whose gate is known.")
app.add_typer(demo_app, name="demo")

app.command("find-features")(find_features_command)
app.command("test-feature")(study_feature_command)
app.command("figures")(figures_command)
app.command("report")(report_command)
app.command("transfer-check")(transfer_check_command)
app.command("import-questions")(import_questions_command)
app.command("paraphrase")(paraphrase_command)
app.command("scrub")(scrub_command)
demo_app.command("build")(demo_build_command)


def main() -> None:
    """Entry point: a user's mistake becomes one paragraph and exit code 2."""
    with command():
        if sys.argv[1:2] and sys.argv[1] != "find-features":
            refuse_several(f"interp {sys.argv[1]}")
        app()


if __name__ == "__main__":
    main()

"""The `interp` command."""

import sys

import typer

from interp.cli.demo import demo_build_command
from interp.cli.export import export_command
from interp.cli.find_features import find_features_command
from interp.cli.guard import HELP, PLAIN, command
from interp.cli.outputs import figures_command, report_command, scrub_command
from interp.cli.questions import import_questions_command, paraphrase_command
from interp.cli.test_feature import study_feature_command
from interp.cli.transfer_check import transfer_check_command
from interp.cli.verify import verify_command
from interp.runtime.distributed import require_single_process

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=PLAIN,
    context_settings=HELP,
    help="Find the features and layers that make a vision-language model flip when a question is reworded.",
)
demo_app = typer.Typer(no_args_is_help=True, rich_markup_mode=PLAIN, help="The embedded world, whose gate is known.")
app.add_typer(demo_app, name="demo")

app.command("find-features", short_help="Find the features and layers behind the flips.")(find_features_command)
app.command("test-feature", short_help="Study one feature: does it cause the flips?")(study_feature_command)
app.command("transfer-check", short_help="Do SAEs of one model describe another?")(transfer_check_command)
app.command("report", short_help="Put a run into one HTML file.")(report_command)
app.command("figures", short_help="Draw the figures of a run again, for print too.")(figures_command)
app.command("export", short_help="List features as Neuronpedia names them.")(export_command)
app.command("scrub", short_help="May a folder be shared? Look for private data.")(scrub_command)
app.command("verify", short_help="Is a run of this model and these questions?")(verify_command)
app.command("import-questions", short_help="Turn a published data set into questions.")(import_questions_command)
app.command("paraphrase", short_help="Give questions rule-based paraphrases.")(paraphrase_command)
demo_app.command("build", short_help="Build a world with a gate of your choice.")(demo_build_command)


def main() -> None:
    """Entry point: a user's mistake becomes one paragraph and exit code 2."""
    with command():
        if sys.argv[1:2] and sys.argv[1] != "find-features":
            require_single_process(f"interp {sys.argv[1]}")
        app()


if __name__ == "__main__":
    main()

"""The `finetune verify` command."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.options import BASE_MODEL
from interp.cli.dataclass_options import with_options
from interp.cli.options import Json, Verbose
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.errors import EXIT_FOUND
from interp.runtime.options import option

RECORDED = ("dtype", "load_in", "image_first", "system", "answer_instruction", "normalize", "normal_form")
"""What the record of the adapter says, so that no option does."""


@with_options(
    without=RECORDED,
    model=BASE_MODEL,
    split=option("train", "Split that the adapter was trained on."),
    test_split=option("test", "Split that the adapter was evaluated on."),
    limit=option(None, "The --limit of the training.", min=1, shown="all"),
)
def verify_command(
    adapter: Annotated[Path, typer.Argument(help="Folder that `finetune --out` wrote.")] = Path("artifacts/adapter"),
    *,
    model: ModelSpec,
    data: DataSpec,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check that the numbers of an adapter folder come from this adapter, this base and these questions.

    Files are compared with their checksums, base and questions with their
    digests. The evaluation is repeated with the recorded number format,
    prompt and seed:

        finetune verify artifacts/adapter

    Give the same --split, --test-split and --limit as for the training. The
    processes of `accelerate launch` divide the evaluation.

    Exits with 0 if every check holds, 4 if one does not, 2 on bad input.
    """
    from finetune.evaluation.verify import read_recorded, verify_adapter
    from finetune.lora.adapter_folder import shared_base
    from interp.model.memory_jobs import measuring
    from interp.runtime.distributed import is_main, team_on
    from interp.storage.checks import files_check
    from interp.storage.json_files import json_ready, json_text
    from interp.views.terminal.checks import show_checks

    record, claimed = read_recorded(adapter)
    files = files_check(adapter)
    if files is not None and not files.holds:
        # A damaged adapter cannot be evaluated again.
        checks = [files]
    else:
        base, style, _ = shared_base([adapter], model)
        dtype: Any = record.model.dtype
        recorded = replace(
            base, dtype=dtype, load_in=record.model.load_in, revision=base.revision or record.model.revision
        )
        training, test = data.load_splits()
        vlm = recorded.load(style, measuring())
        vlm.team = team_on(vlm.device)
        checks = verify_adapter(adapter, record, claimed, vlm, training, test)
        # The launcher stops all processes when one of them ends with an exit code.
        vlm.team.shut_down()
    if not is_main():
        pass
    elif json:
        typer.echo(json_text(json_ready(checks)), nl=False)
    else:
        show_checks(checks, "The training is not repeated, so it is not checked that it gives these weights.")
    if is_main() and not all(check.holds for check in checks):
        raise typer.Exit(EXIT_FOUND)

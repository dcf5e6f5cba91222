"""The `finetune verify` command."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import BaseModel, Device, Limit, TestSplit, TrainSplit
from interp.cli.options import ImageCache, Images, Json, Questions, Revision, Verbose
from interp.paths import WORLD
from interp.runtime.errors import EXIT_FOUND


def verify_command(
    adapter: Annotated[Path, typer.Argument(help="Folder that `finetune --out` wrote.")] = Path("artifacts/adapter"),
    model: BaseModel = None,
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    split: TrainSplit = "train",
    test_split: TestSplit = "test",
    limit: Limit = None,
    revision: Revision = None,
    device: Device = "auto",
    image_cache: ImageCache = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check that an adapter's numbers are of this adapter, base and questions.

    Files are compared with their checksums, base and questions with their
    digests, and the evaluation is made again, in the arithmetic, with the
    prompt and the seed that were recorded:

        finetune verify artifacts/adapter

    Give the options of the training that chose questions (--split, --limit).

    Exits 0 if every check holds, 4 if one does not, 2 on bad input.
    """
    from finetune.evaluation.verify import read_recorded, verify_adapter
    from finetune.lora.adapter_folder import shared_base
    from finetune.training.run import load_splits
    from interp.model.load import load_vlm
    from interp.storage.checks import files_check
    from interp.storage.json_files import json_ready, json_text
    from interp.views.terminal.checks import show_checks

    record, claimed = read_recorded(adapter)
    files = files_check(adapter)
    if files is not None and not files.holds:
        # What is damaged can not be asked again.
        checks = [files]
    else:
        source, style, _ = shared_base([adapter], model, {})
        taught, asked = load_splits(questions, images, split, test_split, limit)
        vlm = load_vlm(source, device, record.model.dtype, revision or record.model.revision, style, image_cache)
        checks = verify_adapter(adapter, record, claimed, vlm, taught, asked)
    if json:
        typer.echo(json_text(json_ready(checks)), nl=False)
    else:
        show_checks(checks, "That the training gives these weights is not computed again.")
    if not all(check.holds for check in checks):
        raise typer.Exit(EXIT_FOUND)

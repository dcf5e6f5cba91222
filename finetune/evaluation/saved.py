"""An evaluation on disk: evaluation.json and, if they were kept, the items beside it."""

from pathlib import Path

from finetune.evaluation.result import Evaluation
from interp.runtime.errors import InputError
from interp.schemas.items import evaluation_items_path, read_items, write_items
from interp.schemas.items_kept import ItemsKept
from interp.schemas.read import read_artifact
from interp.storage.atomic import refuse_used, write_text

EVALUATION = "evaluation.json"


def save_evaluation(evaluation: Evaluation, out: str | Path, items: ItemsKept = ItemsKept()) -> None:
    """Write an evaluation into the new file `out`, and its items beside it if `items` says so.

        >>> finetune.save_evaluation(evaluation, "evaluation.json", interp.ItemsKept(keep=True))

    Raises InputError if the file exists or cannot be written.
    """
    out = Path(out)
    refuse_used(out)
    if items.keep:
        write_items(
            evaluation_items_path(out), evaluation.items(text=True), "evaluation", evaluation.data, items.include_text
        )
    write_text(out, evaluation.to_json())


def load_evaluation(path: str | Path) -> Evaluation:
    """Read the file that `finetune evaluate --out` wrote, or evaluation.json in a folder, with its items if kept.

        >>> finetune.load_evaluation("evaluation.json").items()["arm"].unique().tolist()
        ['adapter']

    Raises InputError if there is none, or if it is damaged or of a newer schema.
    """
    path = Path(path)
    file = path / EVALUATION if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file}: no such file. Write it with `finetune evaluate ADAPTER --out {file}`.")
    evaluation = read_artifact(file, Evaluation)
    kept = evaluation_items_path(file)
    if kept.is_file():
        evaluation.item_table, record = read_items(kept, "evaluation")
        if record.data != evaluation.data:
            raise InputError(f"{kept}: of other questions than {file.name}. Remove it, or evaluate again.")
    return evaluation

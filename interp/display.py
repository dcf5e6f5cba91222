"""Results on the terminal."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.artifact import Interval, Layers, RangeEntry
from interp.console import results
from interp.find import FindResult
from interp.importing import ImportReport
from interp.layers import layers_text
from interp.paraphrase import Report, count_wordings
from interp.questions import Question
from interp.run import LAYERS
from interp.transfer import TransferResult


def interval_text(interval: Interval, digits: int = 2) -> str:
    """An estimate with its interval, as `0.71 [0.64, 0.77]`."""
    if interval.value is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _short(interval: Interval) -> str:
    """As `interval_text`, without leading zeros, for tables of 80 columns."""
    return _bare(interval_text(interval))


def _bare(text: str) -> str:
    """Numbers without the zero before their point."""
    return re.sub(r"(?<!\d)0\.", ".", text)


def show_result(
    result: FindResult, out: Path, console: Console | None = None, given: Mapping[str, object] = MappingProxyType({})
) -> None:
    """Print the data, the layer profile, the top features, the verdict and the next command.

    `given` are the options that named model and questions, by their names: the next command needs them too.
    """
    console = console or results()
    artifact = result.artifact
    console.print(f"\n{_bold(artifact.model.id)}: {asked_line(artifact)}")
    console.print(flips_line(artifact))
    console.print(profile_table(artifact))
    console.print(feature_table(artifact))
    console.print(ranges_line(artifact))
    for warning in artifact.warnings:
        console.print(f"[yellow]warning[/yellow]: {warning}")
    console.print(f"[bold]{artifact.verdict}[/bold]: {artifact.reason}")
    if artifact.layers:
        console.print(range_line(artifact))
        options = [part for name, value in given.items() if value is not None for part in (name, str(value))]
        following = shlex.join(["finetune", "--layers-from", str(out / LAYERS), *options])
        console.print(f"\nnext: {_bold(following)}", soft_wrap=True)


def _bold(name: object) -> str:
    """A name that may hold brackets, as rich shows it in bold."""
    return f"[bold]{escape(str(name))}[/bold]"


def asked_line(artifact: Layers) -> str:
    """What was asked."""
    data = artifact.data
    return f"{data.questions} closed questions of {data.patients} patients, {data.pairs} pairs ({data.split} split)"


def flips_line(artifact: Layers) -> str:
    """How often the answer flipped, and was right."""
    data = artifact.data
    return (
        f"flips: {interval_text(data.question_flip_rate, 3)} of questions, "
        f"{interval_text(data.pairwise_flip_rate, 3)} of pairs; accuracy {interval_text(data.accuracy, 3)}; "
        f"flip bank {data.flip_bank}"
    )


def range_line(artifact: Layers) -> str:
    """The range; "no layers" where there is none."""
    if not artifact.layers:
        return "no layers"
    return f"layers {layers_text(artifact.layers)} (rule {artifact.rule}, peak {artifact.peak})"


def ranges_line(artifact: Layers) -> str:
    """What every rule gives, and from where on the answer is settled."""
    said = "ranges by rule: " + "; ".join(f"{_rule_name(r)} {r.first}-{r.last}" for r in artifact.ranges)
    if artifact.commit_layer is not None:
        said += f"\nfrom layer {artifact.commit_layer} on the layer patch turns at least half of the flips back"
    return said


def profile_table(artifact: Layers) -> Table:
    """The layer profile, a row a layer, those of the range in bold."""
    table = Table(
        title="Layer profile on held-out patients, 95% intervals; rand.: random direction",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
    )
    for name in ("layer", "flip AUC", "layer patch", "rand.", "write patch", "rand.", "back", "FVU"):
        table.add_column(name, justify="right", no_wrap=True)
    for p in artifact.profile:
        table.add_row(
            str(p.layer),
            _short(p.flip_auc),
            _short(p.recovery),
            _value(p.control),
            _short(p.write),
            _value(p.write_control),
            str(p.reversals),
            "-" if p.fvu is None else _bare(f"{p.fvu:.2f}"),
            style="bold" if p.layer in artifact.layers else None,
        )
    return table


def _value(interval: Interval) -> str:
    return "-" if interval.value is None else _bare(f"{interval.value:.2f}")


def _rule_name(taken: RangeEntry) -> str:
    return taken.rule if taken.profile in (None, taken.rule) else f"{taken.rule}({taken.profile})"


def feature_table(artifact: Layers, rows: int = 10) -> Table:
    """The features with the highest net recovery."""
    table = Table(
        title="Features chosen on half of the patients, patched on flips of the others",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
    )
    for name in ("feature", "flip AUC", "predicted", "recovery", "rand.", "like", "swap", "adj. p", "back", "harm"):
        table.add_column(name, justify="right", no_wrap=True)
    for f in artifact.features[:rows]:
        auc = "-" if f.held_out_auc is None else f"{f.held_out_auc:.2f}"
        predicted = "-" if f.attribution is None else f"{f.attribution:.2f}"
        cells = ["-"] * 7
        if f.causal is not None:
            c = f.causal
            controls = ["-" if v is None else f"{v:.2f}" for v in (c.random, c.matched, c.swapped)]
            p = "-" if c.p is None else f"{c.p:.3f}" if c.p >= 0.001 else "<.001"
            harm = "-" if c.unflipped_changed is None else f"{c.unflipped_changed:.2f}"
            cells = [interval_text(c.recovery), *controls, p, f"{c.reversals}/{c.n}", harm]
        table.add_row(f"{f.layer}:{f.feature}", *map(_bare, [auc, predicted, *cells]))
    return table


def show_transfer(result: TransferResult, console: Console | None = None) -> None:
    """Print one table a kind of prompts, and a warning for the layers that fail."""
    console = console or results()
    for kind, rows in result.table.groupby("prompts", sort=False):
        tokens = rows["tokens"].iloc[0]
        table = Table(
            title=f"{escape(result.model)}: {kind}, {tokens} tokens; 95% intervals; p against R2 <= .95",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=0,
            collapse_padding=True,
        )
        for name in ("layer", "R2", "p", "FVU", "L0", "silent", "drift", "shift", "verdict"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows.to_dict("records"):
            interval = f"{row['r2']:.3f} [{row['r2_low']:.3f}, {row['r2_high']:.3f}]"
            p = f"{row['p']:.3f}" if row["p"] >= 0.001 else "<.001"
            numbers = [f"{row['fvu']:.3f}", f"{row['l0']:.1f}", f"{row['dead']:.2f}"]
            numbers += ["-" if pd.isna(row[name]) else f"{row[name]:.3f}" for name in ("drift", "shift")]
            table.add_row(str(row["layer"]), *map(_bare, [interval, p, *numbers]), row["verdict"])
        console.print(table)
    measured_from = f"the same prompts in {result.reference}" if result.reference else "no --reference given"
    console.print(f"drift: of the features' means, from {measured_from}; shift: from the general prompts")
    for kind in dict.fromkeys(result.table["prompts"]):
        failed = result.failed(kind)
        if failed:
            layers = ", ".join(map(str, failed))
            console.print(f"[yellow]warning[/yellow]: {kind}: the SAEs of layers {layers} explain less than 95%")


def show_import(report: ImportReport, out: Path, images: Path, console: Console | None = None) -> None:
    """Print what an import kept, what it set apart or left out and why, and the next command."""
    console = console or results()
    whose = "patients" if report.patients_known else "patients or images"
    console.print(
        f"\n{_bold(out)}: {report.questions} questions ({report.closed} yes/no) on {report.images} images of "
        f"{report.patients} {whose}, {report.paraphrases} paraphrases"
    )
    counts = {"types": report.types, "splits": report.splits}
    for name, values in counts.items():
        console.print(f"{name}: " + ", ".join(f"{key} {count}" for key, count in values.items()))
    table = Table(title="Set apart or left out", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("what", "why", "number", "first"):
        table.add_column(name, justify="right" if name == "number" else "left", overflow="fold")
    for operator, count in report.inverted.items():
        table.add_row(
            "wording", f"inverts the meaning: {operator.replace('_', ' ')} (kept, never measured)", str(count), ""
        )
    for reason, count in report.dropped_paraphrases.items():
        table.add_row("wording", reason, str(count), "")
    for reason, count in report.dropped.items():
        table.add_row("question", reason, str(count), report.dropped_rows[reason][0])
    if table.rows:
        console.print(table)
    for note in report.notes:
        console.print(f"note: {note}")
    console.print(
        f"\nnext: interp find-features --questions {shlex.quote(str(out))} --images {shlex.quote(str(images))} "
        "--model ... --saes ...",
        soft_wrap=True,
        markup=False,
    )


def show_paraphrased(questions: Sequence[Question], report: Report, out: Path, console: Console | None = None) -> None:
    """Print how many questions were reworded, and the wordings by phenomenon and register."""
    console = console or results()
    console.print(
        f"\n{_bold(out)}: {report.made} questions reworded by rule, {report.given} had paraphrases already, "
        f"{report.not_understood} were not understood and stay as they are"
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("phenomenon", "register", "wordings"):
        table.add_column(name, justify="right" if name == "wordings" else "left")
    for phenomenon, register, count in count_wordings(questions):
        table.add_row(phenomenon, register or "-", str(count))
    console.print(table)


def show_list(content: dict[str, Any], console: Console | None = None) -> None:
    """Print a list of features for Neuronpedia (`interp.neuronpedia.feature_list`)."""
    console = console or results()
    for added, page in zip(content["featuresToAdd"], content["pages"], strict=True):
        console.print(f"[bold]{page}[/bold]", soft_wrap=True)
        console.print(f"  {added['description']}", soft_wrap=True, markup=False)
    if content["left_out"]:
        console.print(f"no page of their SAE: {', '.join(content['left_out'])}")
    console.print(f"\nall at once: {content['quick_list']}", soft_wrap=True, markup=False)


def show_world(world: dict[str, Any], out: Path, console: Console | None = None) -> None:
    """Print what a built world is like."""
    console = console or results()
    gate = world["gate_layers"]
    console.print(f"\n{_bold(out)}: gate {f'layers {gate[0]}-{gate[-1]}' if gate else 'none'}, {world['minutes']} min")
    table = Table("model", *[k.replace("_", " ") for k in world["models"]["base"]])
    for name, numbers in world["models"].items():
        table.add_row(name, *[f"{v:.3f}" for v in numbers.values()])
    console.print(table)
    table = Table("layer", "FVU base", "L0 base", "R2 planted", "L0 planted")
    for q in world["saes"]:
        table.add_row(*[f"{v:g}" for v in q.values()])
    console.print(table)

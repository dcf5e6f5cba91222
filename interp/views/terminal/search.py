"""Results on the terminal."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.runtime.console import results_console
from interp.schemas.layer_list import layers_text
from interp.schemas.layers import Interval, Layers
from interp.search.find import FindResult
from interp.search.run_folder import LAYERS


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
    console = console or results_console()
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
    said = "ranges by rule: " + "; ".join(f"{r.rule} {r.first}-{r.last}" for r in artifact.ranges)
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
            _value(p.random_patch),
            _short(p.write),
            _value(p.random_write),
            str(p.reversals),
            "-" if p.fvu is None else _bare(f"{p.fvu:.2f}"),
            style="bold" if p.layer in artifact.layers else None,
        )
    return table


def _value(interval: Interval) -> str:
    return "-" if interval.value is None else _bare(f"{interval.value:.2f}")


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

"""Results on the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from interp.artifact import Interval, Layers
from interp.find import FindResult


def interval_text(interval: Interval, digits: int = 2) -> str:
    """An estimate with its interval, as `0.71 [0.64, 0.77]`."""
    if interval.value is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def show_result(result: FindResult, out: Path, console: Console | None = None) -> None:
    """Print the data, the layer profile, the top features, the verdict and the next command."""
    console = console or Console()
    artifact = result.artifact
    data = artifact.data
    console.print(
        f"\n[bold]{artifact.model.id}[/bold]: {data.questions} closed questions of {data.patients} patients, "
        f"{data.pairs} pairs ({data.split} split)"
    )
    console.print(
        f"flips: {interval_text(data.question_flip_rate, 3)} of questions, "
        f"{interval_text(data.pairwise_flip_rate, 3)} of pairs; accuracy {interval_text(data.accuracy, 3)}; "
        f"flip bank {data.flip_bank}"
    )
    console.print(_profile_table(artifact))
    console.print(_feature_table(artifact))
    ranges = "; ".join(f"{r.rule} {r.first}-{r.last}" for r in artifact.ranges)
    console.print(f"ranges by rule: {ranges}")
    console.print(f"[bold]{artifact.verdict}[/bold]: {artifact.reason}")
    if artifact.layers:
        console.print(f"layers {artifact.layers[0]}-{artifact.layers[-1]} (rule {artifact.rule}, peak {artifact.peak})")
        console.print(f"\nnext: [bold]finetune --layers-from {out / 'layers.json'}[/bold]", soft_wrap=True)


def _profile_table(artifact: Layers) -> Table:
    table = Table(title="Layer profile, on held-out patients (95% intervals)", title_justify="left")
    for name in ("layer", "flip AUC", "layer patch", "random", "write patch", "random", "reversed", "FVU", "L0"):
        table.add_column(name, justify="right")
    for p in artifact.profile:
        chosen = "bold" if p.layer in artifact.layers else None
        table.add_row(
            str(p.layer),
            interval_text(p.flip_auc),
            interval_text(p.recovery),
            interval_text(p.control),
            interval_text(p.write),
            interval_text(p.write_control),
            str(p.reversals),
            "-" if p.fvu is None else f"{p.fvu:.3f}",
            "-" if p.l0 is None else f"{p.l0:.0f}",
            style=chosen,
        )
    return table


def _feature_table(artifact: Layers, rows: int = 8) -> Table:
    table = Table(
        title="Top features of the range (chosen on one half, held-out AUC on the other)", title_justify="left"
    )
    names = ("layer:feature", "flip AUC", "held out", "adj. p", "|delta| flips", "others", "r(margin)", "register AUC")
    for name in names:
        table.add_column(name, justify="right")
    for f in artifact.features[:rows]:
        numbers = (
            f.flip_auc,
            f.held_out_auc,
            f.flip_p,
            f.delta_on_flips,
            f.delta_otherwise,
            f.margin_r,
            f.register_auc,
        )
        formats = ("{:.2f}", "{:.2f}", "{:.1e}", "{:.2f}", "{:.2f}", "{:.2f}", "{:.2f}")
        cells = ["-" if n is None else t.format(n) for n, t in zip(numbers, formats, strict=True)]
        table.add_row(f"{f.layer}:{f.feature}", *cells)
    return table


def show_world(world: dict[str, Any], out: Path, console: Console | None = None) -> None:
    """Print what a built world is like."""
    console = console or Console()
    gate = world["gate_layers"]
    console.print(
        f"\n[bold]{out}[/bold]: gate {f'layers {gate[0]}-{gate[-1]}' if gate else 'none'}, {world['minutes']} min"
    )
    table = Table("model", *[k.replace("_", " ") for k in world["models"]["base"]])
    for name, numbers in world["models"].items():
        table.add_row(name, *[f"{v:.3f}" for v in numbers.values()])
    console.print(table)
    table = Table("layer", "FVU base", "L0 base", "R2 planted", "L0 planted")
    for q in world["saes"]:
        table.add_row(*[f"{v:g}" for v in q.values()])
    console.print(table)

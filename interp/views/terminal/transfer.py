"""A transfer check on the terminal."""

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.runtime.console import results_console
from interp.screening.transfer import TransferResult
from interp.views.terminal.search import _bare


def show_transfer(result: TransferResult, console: Console | None = None) -> None:
    """Print one table a kind of prompts, and a warning for the layers that fail."""
    console = console or results_console()
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

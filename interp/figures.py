"""The figures of a search, each a function from its data to a matplotlib figure; readable in black and white."""

from pathlib import Path
from typing import Any

import numpy as np

from interp.artifact import Interval, Layers
from interp.files import whole_file
from interp.find import FindResult

INK, ACCENT, MUTED = "#1a1a1a", "#0072b2", "#8a8a8a"
STYLE: Any = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def save_figures(result: FindResult, folder: Path) -> list[Path]:
    """Draw every figure that the result has data for, as PNG files in `folder`; returns their paths."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    paths = []
    with mpl.rc_context(STYLE):
        drawn = {
            "layer_profile": layer_profile(result.artifact),
            "delta_margin": delta_against_margin(result),
            "register": activation_by_register(result),
        }
        for name, figure in drawn.items():
            if figure is not None:
                path = folder / f"{name}.png"
                with whole_file(path) as partial:
                    FigureCanvasAgg(figure).print_png(partial)
                paths.append(path)
    return paths


def _figure(width: float, height: float, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, 1, sharex=rows > 1)


def _band(axes: Any, layers: list[int], intervals: list[Interval], **style: Any) -> None:
    value, low, high = (
        np.array([np.nan if getattr(i, k) is None else getattr(i, k) for i in intervals], float)
        for k in ("value", "low", "high")
    )
    axes.errorbar(layers, value, yerr=np.maximum(0, np.stack([value - low, high - value])), capsize=2, lw=1.2, **style)


def layer_profile(artifact: Layers) -> Any:
    """Held-out flip AUC (above) and layer-patch recovery against its control (below), by layer, with the range."""
    figure, (above, below) = _figure(6.5, 5, rows=2)
    profile = artifact.profile
    layers = [p.layer for p in profile]
    _band(
        above, layers, [p.flip_auc for p in profile], color=ACCENT, marker="o", ms=4, label="chosen features, held out"
    )
    if profile[0].flip_auc_null is not None:
        above.axhline(profile[0].flip_auc_null, color=MUTED, ls=":", label="best of all layers, flips shuffled (95%)")
    above.axhline(0.5, color=INK, lw=0.6)
    above.set_ylabel("flip AUC")
    above.set_title(f"{artifact.model.id}: {artifact.verdict}")
    _band(below, layers, [p.recovery for p in profile], color=ACCENT, marker="o", ms=4, label="layer patch")
    _band(
        below,
        layers,
        [p.control for p in profile],
        color=MUTED,
        marker="s",
        ms=3,
        ls="--",
        label="layer patch, random direction",
    )
    if all(p.net_joint is not None for p in profile):
        joint = [p.net_joint for p in profile if p.net_joint is not None]
        _band(
            below, layers, joint, color=INK, marker="^", ms=4, ls=":", label="joint patch of 10 features, net of random"
        )
    writes = [p.net_write.value or 0.0 for p in profile]
    below.bar(
        layers, writes, width=0.6, color="none", edgecolor=INK, hatch="///", lw=0.6, label="write patch, net of random"
    )
    below.axhline(0, color=INK, lw=0.6)
    below.set_ylabel("recovered share\nof the margin shift")
    below.set_xlabel("layer (output, resid_post)")
    below.set_xticks(layers)
    for axes in (above, below):
        if artifact.layers:
            axes.axvspan(artifact.layers[0] - 0.5, artifact.layers[-1] + 0.5, color=ACCENT, alpha=0.12, lw=0)
    above.legend(fontsize=7, loc="best")
    # Four curves leave no room inside.
    below.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def delta_against_margin(result: FindResult) -> Any:
    """Activation difference of the top feature against the margin shift, one point a pair."""
    if not result.artifact.features:
        return None
    top = result.artifact.features[0]
    pairs = result.flips.pairs
    delta = result.top_activations[pairs["paraphrase"]] - result.top_activations[pairs["original"]]
    shift = result.flips.margin_after - result.flips.margin_before
    flipped = result.flips.flipped
    figure, axes = _figure(5, 4)
    axes.scatter(delta[~flipped], shift[~flipped], s=6, color=MUTED, alpha=0.5, lw=0, label="answer stays")
    axes.scatter(delta[flipped], shift[flipped], s=16, color=ACCENT, marker="^", lw=0, label="answer flips")
    axes.axhline(0, color=INK, lw=0.6)
    axes.axvline(0, color=INK, lw=0.6)
    r = np.corrcoef(delta, shift)[0, 1] if delta.std() > 0 else float("nan")
    axes.set_title(f"Layer {top.layer}, feature {top.feature}: r = {r:.2f}, {len(delta)} pairs")
    axes.set_xlabel("activation, paraphrase - original")
    axes.set_ylabel("answer margin, paraphrase - original [logits]")
    axes.legend(fontsize=8)
    return figure


def activation_by_register(result: FindResult) -> Any:
    """Distribution of the top feature's activation on formal and on casual wordings; None where untagged."""
    register = result.prompts["register"].to_numpy()
    groups = {name: result.top_activations[register == name] for name in ("formal", "casual")}
    if not result.artifact.features or any(len(values) == 0 for values in groups.values()):
        return None
    top = result.artifact.features[0]
    figure, axes = _figure(5, 3.2)
    bins = np.linspace(0, max(1e-6, float(result.top_activations.max())), 40)
    for (name, values), style in zip(groups.items(), ({"color": ACCENT}, {"color": INK, "ls": "--"}), strict=True):
        weights = np.full(len(values), 1 / len(values))
        axes.hist(values, bins, weights=weights, histtype="step", lw=1.5, label=f"{name} (n = {len(values)})", **style)
    axes.set_title(f"Layer {top.layer}, feature {top.feature}: activation by register")
    axes.set_xlabel("activation at the final token")
    axes.set_ylabel("share of wordings")
    axes.legend(fontsize=8)
    return figure

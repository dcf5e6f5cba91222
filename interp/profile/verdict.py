"""The verdict: whether the chosen range beats its controls."""

from interp.profile.profile import LEAST_SHARE
from interp.profile.ranges import LayerRange
from interp.schemas.layer_list import layers_text
from interp.schemas.layers import GateVerdict, ProfileEntry
from interp.screening.flips import Flips


def judge(profile: list[ProfileEntry], banked: Flips, found: LayerRange, min_flips: int) -> tuple[GateVerdict, str]:
    """The verdict and its reason: a gate is found only if every one of these holds.

    Enough banked flips on the held-out half, from at least five patients; held-out features that tell flips better
    than shuffled labels do, at the best layer; somewhere in the range, a write patch whose net recovery has an interval
    above zero; and at least LEAST_SHARE of all that any layer writes inside the range: where answers turn at all, some
    layers write the turn, and only their being few makes a gate.
    """
    flips, patients = len(banked.pairs), banked.pairs["patient"].nunique()
    if flips < min_flips or patients < 5:
        return "no gate found", (
            f"{flips} flips of {patients} patients are large enough to study on the held-out half, "
            f"fewer than the {min_flips} of 5 that are needed"
        )
    best = max(profile, key=lambda p: p.flip_auc.value or 0.0)
    if best.flip_auc.value is None:
        return "no gate found", "all pairs of the held-out half flip, so that no feature can tell flips from others"
    if best.flip_auc_null is None or (best.flip_auc.value or 0.0) <= best.flip_auc_null:
        return "no gate found", (
            f"no layer's features tell held-out flips from other pairs better than shuffled labels "
            f"(best AUC {best.flip_auc.value:.2f} at layer {best.layer}, shuffled {best.flip_auc_null or 0:.2f})"
        )
    rising = [p.layer for p in profile if p.layer in found.layers and (p.net_write.low or 0.0) > 0]
    if not rising:
        return (
            "no gate found",
            f"in layers {found.first}-{found.last} no layer's own addition moves the answer more than its control",
        )
    written = {p.layer: max(0.0, p.net_write.value or 0.0) for p in profile}
    share = sum(written[layer] for layer in found.layers if layer in written) / sum(written.values())
    if share < LEAST_SHARE:
        return "no gate found", (
            f"what turns the answer is spread over the layers: {found.first}-{found.last} hold {share:.0%} of all that "
            f"is written, less than the {LEAST_SHARE:.0%} of a gate"
        )
    writers = f"layer {rising[0]} adds" if len(rising) == 1 else f"layers {layers_text(rising)} add"
    return "gate found", (
        f"what {writers} moves the answer more than random directions do; "
        f"held-out features tell flips at AUC {best.flip_auc.value:.2f} (shuffled {best.flip_auc_null:.2f})"
    )

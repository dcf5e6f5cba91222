"""The verdict: whether the chosen range is a gate."""

from collections.abc import Sequence

from interp.profile.ranges import LayerRange
from interp.schemas.layer_list import layers_text
from interp.schemas.layers import GateVerdict, ProfileEntry
from interp.screening.flips import Flips

LEAST_SHARE = 0.5
"""Smallest share of the direct-effect patches' total net recovery that the range of a gate holds."""
LEAST_PATIENTS = 5
"""Fewest patients with banked flips from which anything is concluded."""


def judge(profile: Sequence[ProfileEntry], bank: Flips, found: LayerRange, min_flips: int) -> tuple[GateVerdict, str]:
    """The verdict and its grounds in one sentence. A gate is found only if all of these hold:

    - the held-out half has at least `min_flips` banked flips, from at least LEAST_PATIENTS patients;
    - at the best layer, held-out features discriminate flips better than shuffled labels do;
    - in some layer of the range, the interval of the direct-effect patch's net recovery is above zero;
    - the range holds at least LEAST_SHARE of what all layers write. Wherever answers turn, some layers write the turn;
      it is a gate only if these are few.
    """
    flips, patients = len(bank.pairs), bank.pairs["patient"].nunique()
    if flips < min_flips or patients < LEAST_PATIENTS:
        return "no gate found", (
            f"only {_counted(flips, 'flip')} of {_counted(patients, 'patient')} {'is' if flips == 1 else 'are'} large "
            "enough to study on the held-out half; "
            f"at least {min_flips} flips of {LEAST_PATIENTS} patients are needed"
        )
    best = max(profile, key=lambda p: p.flip_auc.value or 0.0)
    if best.flip_auc.value is None:
        return "no gate found", "all pairs of the held-out half flip, so no feature can discriminate flips from others"
    if best.flip_auc_null is None or (best.flip_auc.value or 0.0) <= best.flip_auc_null:
        return "no gate found", (
            f"no layer's features discriminate held-out flips from other pairs better than shuffled labels do "
            f"(best AUC {best.flip_auc.value:.2f} at layer {best.layer}, shuffled {best.flip_auc_null or 0:.2f})"
        )
    writing = [p.layer for p in profile if p.layer in found.layers and (p.net_write.low or 0.0) > 0]
    if not writing:
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
    writers = f"layer {writing[0]} adds" if len(writing) == 1 else f"layers {layers_text(writing)} add"
    return "gate found", (
        f"what {writers} moves the answer more than random directions do; "
        f"held-out features discriminate flips at AUC {best.flip_auc.value:.2f} (shuffled {best.flip_auc_null:.2f})"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""The recipe of a training in words, and which parts of it no published text states."""

from finetune.lora.modules import PROJECTIONS
from finetune.lora.settings import TrainSettings

UNPUBLISHED = (
    "schedule",
    "warmup",
    "decay",
    "clipping",
    "divergence",
    "answer_weight",
    "spelling",
    "grounding",
)
"""Parts of the recipe that neither the published papers nor the model card of the targeted LoRA state.

They are choices of this project, so a result can differ from the published one because of them.
"""


def recipe_of(settings: TrainSettings) -> dict[str, str]:
    """Part of the training -> what was done, in words; the numbers are those of the settings."""
    weights = f"{settings.answer_weight:g} x cross-entropy + {settings.consistency_weight:g} x divergence"
    if settings.grounding != "none":
        weights += f" + {settings.grounding_weight:g} x {settings.grounding} term"
    schedules = {
        "cosine": "cosine from the peak to zero over the steps after the warm-up",
        "linear": "linear from the peak to zero over the steps after the warm-up",
        "constant": "constant at the peak after the warm-up",
    }
    wordings = "mean of both wordings" if settings.answer_wordings == "both" else "of the original wording alone"
    kl = {
        "mean": "symmetric KL, the mean of KL(p || q) and KL(q || p)",
        "sum": "both KL divergences, the sum of KL(p || q) and KL(q || p)",
    }
    over = "over the vocabulary"
    if settings.divergence_over == "yes-no":
        over = "over yes and no, for open questions over the vocabulary"
    spellings = {
        "lower-case": "lower case",
        "any": "any, the probabilities of all spellings are added",
    }
    clipping = f"gradient norm at most {settings.max_grad_norm:g}" if settings.max_grad_norm else "none"
    return {
        "optimizer": f"AdamW, peak learning rate {settings.lr:g}",
        "schedule": schedules[settings.schedule],
        "warmup": f"linear, over {settings.warmup_share:g} of the steps",
        "decay": f"{settings.weight_decay:g}, decoupled, on all adapter weights",
        "clipping": clipping,
        "loss": weights,
        "answer_weight": f"{settings.answer_weight:g}, on the first answer token, {wordings}",
        "spelling": spellings[settings.spelling],
        "divergence": f"{kl[settings.divergence]}, of the first answer token {over}",
        "grounding": settings.grounding,
        "modules": ", ".join(PROJECTIONS),
    }

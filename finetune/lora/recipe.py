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
    return {
        "optimizer": f"AdamW, peak learning rate {settings.lr:g}",
        "schedule": "cosine from the peak to zero over the steps after the warm-up",
        "warmup": f"linear, over {settings.warmup_share:g} of the steps",
        "decay": f"{settings.weight_decay:g}, decoupled, on all adapter weights",
        "clipping": f"gradient norm at most {settings.max_grad_norm:g}",
        "loss": weights,
        "answer_weight": f"{settings.answer_weight:g}, on the first answer token, mean of both wordings",
        "divergence": "symmetric KL, (KL(p || q) + KL(q || p)) / 2, of the first answer token over the vocabulary",
        "grounding": settings.grounding,
        "modules": ", ".join(PROJECTIONS),
    }

"""What the weights show of a feature: similar decoder rows, and the effect of its direction on the answer."""

import torch
from torch import Tensor

from interp.model.prompts import AnswerTokens, answer_margin
from interp.model.vlm import Vlm
from interp.saes.sae import Sae, decoder_cosines
from interp.schemas.study import Neighbour
from interp.storage.json_files import significant

NEIGHBOURS = 8
"""Number of nearest neighbours that are listed."""


def nearest_neighbours(sae: Sae, feature: int, count: int = NEIGHBOURS) -> list[Neighbour]:
    """The `count` other features of the SAE whose decoder rows have the largest cosine with that of `feature`."""
    cosine = decoder_cosines(sae, sae.w_dec[feature]).cpu()
    cosine[feature] = -torch.inf
    top = cosine.topk(min(count, sae.d_sae - 1))
    return [
        Neighbour(feature=int(i), cosine=significant(float(c))) for i, c in zip(top.indices, top.values, strict=True)
    ]


def direct_effect(vlm: Vlm, sae: Sae, feature: int, last: Tensor) -> float:
    """Direct logit attribution: what one activation unit adds to the margin through the output layer alone [logits].

    It is W_dec * (1 + norm weight) / mean RMS of `last`, times the mean unembedding row of the yes tokens minus that of
    the no tokens. `last` [n, d_model] are the residuals of the last layer at the final token. The slope of the margin
    itself (`margin_slope`) can differ, even in sign.
    """
    norm, unembedding = vlm.model.model.language_model.norm, vlm.model.lm_head.weight
    # As in transformers.models.gemma3.modeling_gemma3.Gemma3RMSNorm: eps inside the root, weight stored minus one.
    rms = last.double().pow(2).mean(-1).add(norm.eps).sqrt().mean()
    scaled = sae.w_dec[feature].double().cpu() * (1 + norm.weight.double().cpu()) / rms
    yes, no = (unembedding[ids.to(unembedding.device)].double().mean(0).cpu() for ids in vlm.answers)
    return float(scaled @ (yes - no))


def margin_slope(vlm: Vlm, sae: Sae, feature: int, last: Tensor) -> float:
    """Mean slope of the margin along the decoder row, at the last layer's residuals `last` [n, d_model] [logits/unit].

    Unlike `direct_effect`, it weights every answer token by its probability, the norm shrinks what lies along the
    residual, and each prompt has its own RMS. Neither contains what layers in between make of the feature.
    """
    x = last.to(vlm.device).float().requires_grad_()
    yes, no = (ids.to(vlm.device) for ids in vlm.answers)
    with torch.enable_grad():
        hidden = vlm.model.model.language_model.norm(x)
        logits = hidden @ vlm.model.lm_head.weight[torch.cat([yes, no])].float().T
        places = torch.arange(len(yes) + len(no))
        margin = answer_margin(logits, AnswerTokens(places[: len(yes)], places[len(yes) :]))
        (gradient,) = torch.autograd.grad(margin.sum(), x)
    return float(gradient.mean(0) @ sae.w_dec[feature].float())

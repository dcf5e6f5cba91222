"""How similar two wordings are to a sentence encoder: the cosine of their embeddings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interp.runtime.errors import InputError, first_line
from interp.storage.hub import locate_any

if TYPE_CHECKING:
    from torch import Tensor

POOLINGS = ("mean_tokens", "cls_token")
"""Kinds of pooling that are known, by the names of sentence-transformers."""
BATCH = 64
"""Number of wordings that are encoded at a time."""


class WordingSimilarity(NamedTuple):
    """How similar the two wordings of every pair are."""

    encoder: str
    """Name of the sentence encoder."""
    cosine: NDArray[np.float64]
    """[m] cosine similarity of the wordings of each pair."""


def pair_similarity(prompts: pd.DataFrame, pairs: pd.DataFrame, encoder: str | Path) -> WordingSimilarity:
    """The similarity of the wordings of some `pairs` [m]. Raises InputError as `wording_similarity`."""
    texts = prompts["text"].to_numpy(object)
    before, after = (list(texts[pairs[name].to_numpy()]) for name in ("original", "paraphrase"))
    return WordingSimilarity(Path(encoder).name, wording_similarity(encoder, before, after))


def wording_similarity(encoder: str | Path, before: Sequence[str], after: Sequence[str]) -> NDArray[np.float64]:
    """The cosine similarity [n] of the wordings `before` [n] and `after` [n].

    `encoder` is a folder or a hub id of a text encoder, as sentence-transformers or transformers saves it. An embedding
    is the mean of the last hidden states over the tokens, or the state of the first token where 1_Pooling/config.json
    says so. Raises InputError for an encoder that cannot be loaded, or that pools in another way.
    """
    texts = sorted({*before, *after})
    if not texts:
        return np.zeros(0)
    place = {text: row for row, text in enumerate(texts)}
    embedded = _embeddings(encoder, texts)
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    first, second = ([place[text] for text in side] for side in (before, after))
    return (embedded[first] * embedded[second]).sum(1)


def _embeddings(encoder: str | Path, texts: Sequence[str]) -> NDArray[np.float64]:
    """The embedding of each text, [n, width]."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = locate_any(encoder).folder
    pooling = _pooling(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True).eval()
    # transformers does not validate configurations, and a wrong one may raise any kind of error.
    except Exception as error:
        raise InputError(f"--sentence-encoder {encoder}: could not be loaded ({first_line(error)}).") from None
    longest = getattr(model.config, "max_position_embeddings", None)
    found = []
    with torch.no_grad():
        for start in range(0, len(texts), BATCH):
            part = list(texts[start : start + BATCH])
            inputs = tokenizer(
                part, padding=True, truncation=longest is not None, max_length=longest, return_tensors="pt"
            )
            found.append(_pooled(model(**inputs), inputs["attention_mask"], pooling))
    return torch.cat(found).double().numpy()


def _pooled(output: Any, mask: "Tensor", pooling: str) -> "Tensor":
    """One embedding a text, [b, width], of the last hidden states [b, tokens, width]."""
    states = output.last_hidden_state.float()
    if pooling == "cls_token":
        return states[:, 0]
    weight = mask[..., None].float()
    return (states * weight).sum(1) / weight.sum(1)


KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}
"""Modules of sentence-transformers that are applied here; cosines do not depend on the last one."""


def _pooling(folder: Path) -> str:
    """The kind of pooling that sentence-transformers saved with an encoder; the mean without such a file."""
    modules = folder / "modules.json"
    if modules.is_file():
        kinds = [str(each.get("type", "")).rsplit(".", 1)[-1] for each in json.loads(modules.read_text("utf-8"))]
        others = [kind for kind in kinds if kind not in KNOWN_MODULES]
        if others:
            raise InputError(
                f"{modules}: the encoder has a module {others[0]}, but only {', '.join(sorted(KNOWN_MODULES))} are "
                "known here. Give an encoder without it."
            )
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return POOLINGS[0]
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({first_line(error)}).") from None
    chosen = [
        name.removeprefix("pooling_mode_") for name, on in config.items() if name.startswith("pooling_mode_") and on
    ]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise InputError(f"{file}: pools by {', '.join(chosen) or 'nothing'}, expected one of {', '.join(POOLINGS)}.")
    return chosen[0]

"""Activations in the form of delphi's cache of latents (`delphi.latents.LatentDataset` of `eai-delphi` 0.1.3).

A folder `latents/layers.L` holds config.json and one safetensors file named by the first and last latent of the SAE:
`locations` [active, 3] (wording, position, latent - first), `activations` [active], and `tokens` [wordings, length].
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from interp.feature.token_activations import TokenActivations
from interp.model.vlm import Vlm
from interp.saes.sae import Sae
from interp.storage.json_files import write_json

WINDOW = 32
"""delphi cuts tokens into windows of this many; wordings are padded to a multiple, so that none is cut in two."""
LATENTS = "latents"
"""The folder that delphi reads as `raw_dir`."""


def write_delphi(folder: Path, vlm: Vlm, sae: Sae, found: TokenActivations) -> None:
    """Write the cache of one layer into `folder`/latents/layers.L. It holds the tokens of the wordings."""
    longest = max(map(len, found.tokens))
    length = WINDOW * -(-longest // WINDOW)
    tokens = np.full((len(found.tokens), length), vlm.processor.tokenizer.pad_token_id or 0, np.uint32)
    dense = np.zeros((len(found.tokens), length, len(found.features)), np.float32)
    for row, (ids, values) in enumerate(zip(found.tokens, found.activations, strict=True)):
        tokens[row, : len(ids)], dense[row, : len(ids)] = ids, values
    locations = np.argwhere(dense > 0)
    activations = dense[tuple(locations.T)]
    locations[:, 2] = np.asarray(found.features)[locations[:, 2]]
    own = folder / LATENTS / f"layers.{sae.layer}"
    own.mkdir(parents=True)
    save_file(
        # argwhere gives columns that lie apart in memory, which would be written in another order.
        {"locations": np.ascontiguousarray(locations, np.uint32), "activations": activations, "tokens": tokens},
        own / f"0_{sae.d_sae - 1}.safetensors",
    )
    write_json(
        own / "config.json",
        {
            "dataset_repo": "",
            "dataset_split": "",
            "dataset_name": "",
            "dataset_column": "",
            "batch_size": 1,
            "cache_ctx_len": length,
            "n_tokens": tokens.size,
            "n_splits": 1,
            "model_name": vlm.name,
        },
    )

"""How much do families of features mediate, in a model with a gate and in one without?

    interp demo plant --split test --out decoy/
    python tests/benchmarks/families.py decoy/
    python tests/benchmarks/families.py interp/demo/world/planted

The place of a family follows the rule of single features (`interp.profile.places.place_of`) with a threshold of its
own. Of every layer, the twelve features that change most on flips are patched, alone and with their families; the table
shows those with the largest net mediated recovery. A model takes about a minute.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from interp.causal.layer_patching import PatchTarget, rerun_paraphrases
from interp.causal.vector_patching import patch_vectors
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae
from interp.saes.sparse_codes import differences, encode_sparse
from interp.schemas.tested_features import FAMILY_MEDIATED, MEDIATED
from interp.screening.families import find_relatives
from interp.screening.feature_stats import joint_feature_patch
from interp.screening.flips import find_flips, questions_that_can_flip, sides

FEATURES = 12
"""Features of a layer."""


def patched_families(model: Path, world: Path, count: int, seed: int = 0) -> pd.DataFrame:
    """One row per feature: layer, feature, relatives, and the net mediated recovery alone and with the family."""
    vlm = load_vlm(model, "auto", "float32")
    prompts = prompt_table(questions_that_can_flip(load_questions(world / "questions.jsonl", split="test"))[:count])
    measured = measure(vlm, prompts, range(vlm.n_layers))
    flips = find_flips(prompts, pair_table(prompts), measured.margin, 0.25)
    banked = flips.take(flips.banked)
    bank = PatchTarget(banked, rerun_paraphrases(vlm, prompts, banked, max_bytes=2**31))
    original, paraphrase = sides(banked.pairs)
    rows = []
    for layer, folder in locate_saes(world / "saes").items():
        sae, residuals = load_sae(folder, layer, vlm.d_model), measured.residuals[:, layer]
        activations = encode_sparse(sae, residuals)
        codes, delta = activations.by_feature, differences(activations, *sides(flips.pairs))
        moved = (sae.encode(residuals[paraphrase]) - sae.encode(residuals[original])).abs().mean(0)
        for feature in (moved * sae.w_dec.norm(dim=1)).topk(FEATURES).indices.tolist():
            relatives = [each.feature for each in find_relatives(sae, codes, delta, feature)]
            patches = [joint_feature_patch(sae, codes, banked.pairs, [feature, *k]) for k in ([], relatives)]
            alone, together = patch_vectors(bank, [layer] * 2, torch.stack(patches, 1), seed)
            rows.append((layer, feature, len(relatives), alone.net_mediated.value, together.net_mediated.value))
    return pd.DataFrame(rows, columns=["layer", "feature", "relatives", "alone", "with family"])


def main() -> None:
    """Patch the families of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--world", type=Path, default=WORLD)
    parser.add_argument("--questions", type=int, default=240)
    options = parser.parse_args()
    table = patched_families(options.model, options.world, options.questions)
    print(table.sort_values("with family", ascending=False).head(10).round(2).to_string(index=False))
    for name, least in (("alone", MEDIATED), ("with family", FAMILY_MEDIATED)):
        print(f"{name}: at most {table[name].max():.2f}; at least {least:g} in {(table[name] >= least).sum()}")


if __name__ == "__main__":
    main()

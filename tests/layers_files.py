"""A layers.json written by hand, of a search that found a gate in layer 1."""

from typing import Any


def layers_document(model: str, n_layers: int, d_model: int) -> dict[str, Any]:
    some = {"value": 0.5, "low": 0.25, "high": 0.75}
    measures = ["flip_auc", "recovery", "random_patch", "write", "random_write", "net_write", "feature_patch", "r2"]
    profile = dict.fromkeys(measures, some) | {"flip_auc_null": None, "reversals": 0, "fvu": 0.1, "l0": 2.0}
    return {
        "schema_version": 2,
        "verdict": "gate found",
        "reason": "because",
        "layers": [1],
        "peak": 1,
        "rule": "write",
        "commit_layer": None,
        "ranges": [{"rule": "write", "first": 1, "last": 1, "peak": 1}],
        "model": {"id": model, "revision": None, "n_layers": n_layers, "d_model": d_model, "dtype": "float32"},
        "saes": {"1": "layer_1_width_16k_l0_small"},
        "data": {
            "fingerprint": "00",
            "split": "train",
            **dict.fromkeys(["questions", "pairs", "patients", "flips", "flip_bank"], 3),
            **dict.fromkeys(["question_flip_rate", "pairwise_flip_rate", "accuracy"], some),
        },
        "profile": [{"layer": layer, "transfer": "pass", **profile} for layer in range(n_layers)],
        "features": [],
        "settings": {},
        "seed": 0,
        "software": {},
    }

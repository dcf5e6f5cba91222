"""The edges of a studied feature as circuit-tracer's page reads them.

The format is that of circuit-tracer 0.5 (`circuit_tracer/frontend/graph_models.py`): nodes, links with a weight, and a
list of the graphs of a folder. A graph there is of one prompt; here all banked flips are one, so a link's weight is the
share of its target's change that goes back when the source's change is undone, and the last node is the answer margin.
"""

from typing import Any

from interp.schemas.study import EdgeEntry, Study

FOLDER = "circuit"
"""Folder, inside that of a study, that circuit-tracer's page is given."""
TOKENS = ["earlier tokens", "final prompt token"]
"""What stands for the prompt. All edges are at the final token; no question text is written."""
FINAL = 1
"""Place of the final prompt token in TOKENS."""


def circuit_files(study: Study) -> dict[str, Any]:
    """File name -> content, of the graph of a study and of the list of graphs; empty without edges.

    The margin is linked to the studied feature by the recovery of its feature patch. Its node says, as a probability,
    in which share of the flips the patch restores the original's answer.
    """
    if not study.edges:
        return {}
    slug = f"feature-{study.layer}-{study.feature}"
    metadata = {
        "slug": slug,
        "scan": study.model,
        "transcoder_list": [],
        "prompt_tokens": TOKENS,
        "prompt": f"{study.name}, all flips together",
        "node_threshold": None,
        "schema_version": 1,
    }
    named = {study.name: (study.layer, study.feature)} | {
        f"{layer}:{feature}": (layer, feature) for edge in study.edges for layer, feature in _ends(edge)
    }
    nodes = [_feature_node(layer, feature) for layer, feature in sorted(named.values())]
    links = [
        {"source": _name(*source), "target": _name(*target), "weight": edge.undone.value}
        for edge in study.edges
        for source, target in [_ends(edge)]
    ]
    if study.test is not None:
        above = max(layer for layer, _ in named.values()) + 1
        restored = study.test.reversals / study.test.n
        nodes.append(_margin_node(above, restored))
        margin = {"source": _name(study.layer, study.feature), "target": nodes[-1]["node_id"]}
        links.append(margin | {"weight": study.test.recovery.value})
    shown = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": _name(study.layer, study.feature)}
    graph = {"metadata": metadata, "qParams": shown | {"sg_pos": ""}, "nodes": nodes, "links": links}
    return {"graph-metadata.json": {"graphs": [metadata]}, f"{slug}.json": graph}


def _ends(edge: EdgeEntry) -> tuple[tuple[int, int], tuple[int, int]]:
    return (edge.source_layer, edge.source_feature), (edge.target_layer, edge.target_feature)


def _name(layer: int, feature: int) -> str:
    return f"{layer}_{feature}_{FINAL}"


def _feature_node(layer: int, feature: int) -> dict[str, Any]:
    # circuit-tracer numbers features by Cantor's pairing of layer and index.
    number = (layer + feature) * (layer + feature + 1) // 2 + feature
    node = _node(_name(layer, feature), number, layer, "cross layer transcoder", f"{layer}:{feature}")
    return node | {"jsNodeId": f"{layer}_{feature}-0"}


def _margin_node(layer: int, restored: float) -> dict[str, Any]:
    clerp = f'Output "answer of the original" (p={restored:.3f})'
    node = _node(f"{layer}_0_{FINAL}", 0, layer, "logit", clerp)
    return node | {"jsNodeId": f"L_0-{FINAL}", "token_prob": restored, "is_target_logit": True}


def _node(name: str, number: int, layer: int, kind: str, clerp: str) -> dict[str, Any]:
    return {
        "node_id": name,
        "feature": number,
        "layer": str(layer),
        "ctx_idx": FINAL,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": name,
        "clerp": clerp,
        "influence": None,
        "activation": None,
    }

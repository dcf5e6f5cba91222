"""Reads exported files with the packages that they are for.

    python tests/benchmarks/read_exports.py sae-dashboard|delphi|circuit-tracer FOLDER

Run it in an environment with that package (sae-dashboard 0.8.0, eai-delphi 0.1.3 or circuit-tracer 0.5.0), which
GateScope does not need. sae-dashboard writes a page beside each file; of delphi, the examples that it would show an
explainer are printed; for circuit-tracer, whose FOLDER is `circuit/` of `interp test-feature --edges --out`, the links.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from transformers import AutoTokenizer

TOKENIZER = Path(__file__).parents[2] / "interp/demo/world/planted"
"""The embedded world's; give your own model's folder or hub id for other exports."""


def read_sae_dashboard(folder: Path, tokenizer) -> None:
    """Write FILE.html for every file, as sae-dashboard draws it."""
    from sae_dashboard.components_config import (
        ActsHistogramConfig,
        Column,
        LogitsHistogramConfig,
        LogitsTableConfig,
        SequencesConfig,
    )
    from sae_dashboard.data_writing_fns import save_feature_centric_vis
    from sae_dashboard.layout import SaeVisLayoutConfig
    from sae_dashboard.sae_vis_data import SaeVisConfig, SaeVisData

    columns = [
        Column(ActsHistogramConfig(), LogitsTableConfig(), LogitsHistogramConfig()),
        Column(SequencesConfig(buffer=None, stack_mode="stack-none")),
    ]
    for file in sorted(folder.glob("*.json")):
        config = SaeVisConfig(hook_point="", features=[], feature_centric_layout=SaeVisLayoutConfig(columns=columns))
        read = SaeVisData.load_json(file, config, SimpleNamespace(tokenizer=tokenizer), None)
        page = file.with_suffix(".html")
        save_feature_centric_vis(read, page)
        print(f"{file.name}: features {list(read.feature_data_dict)}, {page.stat().st_size} bytes of HTML")


def read_delphi(folder: Path, tokenizer) -> None:
    """Print how often each latent is active and its strongest example, as delphi reads them."""
    from delphi.config import ConstructorConfig, SamplerConfig
    from delphi.latents import LatentDataset

    sampler = SamplerConfig(n_examples_train=4, n_examples_test=4, n_quantiles=2)
    constructor = ConstructorConfig(min_examples=1, n_non_activating=4, example_ctx_len=32)
    for record in LatentDataset(folder / "latents", sampler, constructor, tokenizer):
        best = record.examples[0]
        print(
            f"{record.latent}: active at {record.per_token_frequency:.3f} of tokens, {len(record.examples)} examples, "
            f"{len(record.not_active)} others; {best.max_activation:.3f} at "
            f"{tokenizer.decode(best.tokens[best.activations.argmax()])!r} of {tokenizer.decode(best.tokens)!r}"
        )


def read_circuit_tracer(folder: Path, tokenizer) -> None:
    """Print the links of every graph that circuit-tracer lists, and check that it would name the features alike."""
    from circuit_tracer.frontend.graph_models import Model, Node

    for listed in json.loads((folder / "graph-metadata.json").read_text())["graphs"]:
        graph = Model.model_validate_json((folder / f"{listed['slug']}.json").read_text())
        nodes = {node.node_id: node for node in graph.nodes}
        for node in graph.nodes:
            if node.feature_type != "logit":
                layer, feature, place = map(int, node.node_id.split("_"))
                theirs = Node.feature_node(layer, place, feature)
                assert (theirs.node_id, theirs.feature, theirs.jsNodeId) == (node.node_id, node.feature, node.jsNodeId)
        for link in graph.links:
            print(f"{nodes[link['source']].clerp} -> {nodes[link['target']].clerp}: {link['weight']:.2f}")


if __name__ == "__main__":
    readers = {"sae-dashboard": read_sae_dashboard, "delphi": read_delphi, "circuit-tracer": read_circuit_tracer}
    read = readers[sys.argv[1]]
    read(Path(sys.argv[2]), AutoTokenizer.from_pretrained(sys.argv[3] if len(sys.argv) > 3 else TOKENIZER))

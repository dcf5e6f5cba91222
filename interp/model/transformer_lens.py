"""A model in the hands of TransformerLens and sae-lens: their hooks, caches and SAEs over the weights that we hold."""

from copy import deepcopy
from itertools import chain
from typing import Any

from sae_lens import SAETransformerBridge
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components import NormalizationBridge
from transformer_lens.model_bridge.sources import build_bridge_config_from_hf, detect_tokenizer_bos_eos

from interp.model.vlm import Vlm


class LensBridge(SAETransformerBridge):
    """sae-lens's bridge, which is TransformerLens's `TransformerBridge` with SAEs, under all of the hooks' names.

    A hook at a name that is not there is silently never called. sae-lens 6.54 drops TransformerLens's aliases, such as
    `blocks.4.hook_resid_post` of the SAEs' own configurations, and where an SAE was taken out again it leaves a hook
    point that does not know its whole name.
    """

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """Name of every hook point, aliases included -> the hook point."""
        hooks = super().hook_dict
        for name, hook in hooks.items():
            hook.name = name
        self._add_aliases_to_hooks(hooks)
        # Where an SAE sits it stands in for the hook point, and has hook points of its own.
        return {name: hook for name, hook in hooks.items() if isinstance(hook, HookPoint)}


def lens_bridge(vlm: Vlm) -> LensBridge:
    """`vlm.model` as a `TransformerBridge` that takes SAEs (`Sae.to_sae_lens`).

    Every weight is the same tensor as in `vlm`, LoRA layers included; modules and configuration are the bridge's own,
    so that `vlm` measures on as before. Clamps of `vlm.output_hooks` are made by `measure` and are not in it. Nothing is
    read, downloaded or installed. Attention is computed eagerly, as TransformerLens needs it for its patterns.
    """
    shared: Any = {id(tensor): tensor for tensor in chain(vlm.model.parameters(), vlm.model.buffers())}
    twin, tokenizer = deepcopy(vlm.model, shared), deepcopy(vlm.processor.tokenizer)
    # Not `boot_transformers`: it reads the processor once more, and installs torchvision where that fails.
    config = build_bridge_config_from_hf(twin.config, type(twin).__name__, vlm.name, vlm.model.dtype)
    adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
    adapter.cfg.device = str(vlm.device)
    adapter.cfg.tokenizer_prepends_bos, adapter.cfg.tokenizer_appends_eos = detect_tokenizer_bos_eos(tokenizer)
    adapter.prepare_model(twin)
    bridge = LensBridge(twin, adapter, tokenizer)
    bridge.processor = vlm.processor
    # transformer-lens 3.9 scales the tower's LayerNorms by 1 + weight, as Gemma's RMSNorms; natively it is right.
    for module in twin.model.vision_tower.modules():
        if isinstance(module, NormalizationBridge):
            module.use_native_layernorm_autograd = True
    return bridge

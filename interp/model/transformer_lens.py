"""Wraps a loaded model for TransformerLens and sae-lens, whose hooks, caches and SAEs work on the same weights."""

from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from sae_lens import SAETransformerBridge
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components import NormalizationBridge
from transformer_lens.model_bridge.sources import build_bridge_config_from_hf, detect_tokenizer_bos_eos


class LensBridge(SAETransformerBridge):
    """sae-lens's bridge (TransformerLens's `TransformerBridge` with SAEs) in which every hook name works.

    A hook on an unknown name is silently never called. sae-lens 6.54 drops TransformerLens's aliases, such as
    `blocks.4.hook_resid_post`, which the SAEs' own configurations use; and an SAE that is removed leaves a hook
    point without its full name.
    """

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """Name of every hook point, aliases included -> the hook point."""
        hooks = super().hook_dict
        for name, hook in hooks.items():
            hook.name = name
        self._add_aliases_to_hooks(hooks)
        # An attached SAE replaces the hook point and has hook points of its own.
        return {name: hook for name, hook in hooks.items() if isinstance(hook, HookPoint)}


def lens_bridge(model: Any, processor: Any, name: str, device: torch.device) -> LensBridge:
    """A `TransformerBridge` over a Gemma 3 model that accepts SAEs (`Sae.to_sae_lens`).

    `model`, `processor`, `name` and `device` are those of a `Vlm`. The bridge shares every weight tensor with `model`,
    LoRA layers included, but has modules and a configuration of its own, so `model` keeps working as before. Nothing is
    read, downloaded or installed. Attention is computed eagerly, because TransformerLens needs its patterns.
    """
    shared: Any = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin, tokenizer = deepcopy(model, shared), deepcopy(processor.tokenizer)
    # Not `boot_transformers`: it reads the processor again, and installs torchvision if that fails.
    config = build_bridge_config_from_hf(twin.config, type(twin).__name__, name, model.dtype)
    adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
    adapter.cfg.device = str(device)
    adapter.cfg.tokenizer_prepends_bos, adapter.cfg.tokenizer_appends_eos = detect_tokenizer_bos_eos(tokenizer)
    adapter.prepare_model(twin)
    bridge = LensBridge(twin, adapter, tokenizer)
    bridge.processor = processor
    # transformer-lens 3.9 scales the vision tower's LayerNorms by 1 + weight, which is right for Gemma's RMSNorms only.
    for module in twin.model.vision_tower.modules():
        if isinstance(module, NormalizationBridge):
            module.use_native_layernorm_autograd = True
    return bridge

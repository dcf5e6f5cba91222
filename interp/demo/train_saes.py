"""Training of a world's SAEs with sae-lens's BatchTopK trainer; they are saved as the equivalent JumpReLU SAEs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.demo.recipe import SaeRecipe
from interp.demo.training_data import TrainingData, pixel_values
from interp.model.decoder import run_packed
from interp.model.image_tokens import encode_pixels
from interp.model.packing import Row, collate, pack
from interp.runtime.progress import track
from interp.saes.sae import Sae, save_sae


@torch.no_grad()
def collect_residuals(model: Any, data: TrainingData, seed: int, tokens: int) -> Tensor:
    """Residuals after every layer at all final and a third of other tokens: float32 [n >= tokens, layers, d_model]."""
    rng = np.random.default_rng([seed, 3])
    device = data.images.device
    bank = [wording for wordings in data.wordings.values() for wording in wordings]
    kept: list[Tensor] = []
    count = 0
    while count < tokens:
        chosen = rng.integers(0, len(data.images), 48)
        picks = rng.integers(0, len(bank), (48, 8))
        rows = pack([bank[p].tokens for p in picks.ravel()], list(np.repeat(np.arange(48), 8)), data.image_token)
        batch = collate(rows, 0).to(device)
        images = encode_pixels(model, pixel_values(data.images[torch.from_numpy(chosen).to(device)]))
        inside = batch.segment > 0
        final = torch.zeros_like(inside)
        final[batch.final[:, 0], batch.final[:, 1]] = True
        # Only final tokens are screened, but a prompt has some twenty others, so only a third of those is kept.
        inside &= final | torch.from_numpy(rng.random(inside.shape) < 0.33).to(device)
        with _caught_residuals(model) as caught:
            run_packed(model, batch, images)
        kept.append(torch.stack([residual[inside] for residual in caught], dim=1))
        count += len(kept[-1])
    return torch.cat(kept)


@torch.no_grad()
def collect_text_residuals(model: Any, passages: Sequence[list[int]], seed: int, tokens: int) -> Tensor:
    """Residuals after every layer at the tokens of passages in random order: float32 [n >= tokens, layers, d_model].

    The first token of a passage is left out, because its residual is far larger than all others and always the same.
    With fewer tokens in all passages, n is their number.
    """
    device = model.device
    order = np.random.default_rng([seed, 4]).permutation(len(passages))
    no_image = torch.empty(0, model.config.text_config.hidden_size, device=device)
    kept: list[Tensor] = []
    count = 0
    for start in range(0, len(order), 48):
        if count >= tokens:
            break
        chosen = order[start : start + 48]
        batch = collate([Row([i], [], [passages[place]]) for i, place in enumerate(chosen)], 0).to(device)
        inside = batch.segment > 0
        inside[:, 0] = False
        with _caught_residuals(model) as caught:
            run_packed(model, batch, no_image)
        kept.append(torch.stack([residual[inside] for residual in caught], dim=1))
        count += len(kept[-1])
    return torch.cat(kept)


@contextmanager
def _caught_residuals(model: Any) -> Iterator[list[Tensor]]:
    """While open, a run appends the residual [B, S, d_model] after each layer."""
    caught: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda module, inputs, output: caught.append(output))
        for layer in model.model.language_model.layers
    ]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def train_sae(residuals: Tensor, layer: int, seed: int, recipe: SaeRecipe) -> Sae:
    """Train an SAE on residuals [n, d_model] with sae-lens, and fold their scaling into its weights."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed * 1000 + layer)
    device = str(residuals.device)
    centre = residuals.mean(0)
    scale = float((residuals - centre).pow(2).sum(1).mean().sqrt() / residuals.shape[1] ** 0.5)
    scaled = (residuals - centre) / scale

    def batches() -> Iterator[Tensor]:
        while True:
            yield scaled[torch.randint(len(scaled), (recipe.batch,), device=scaled.device)]

    config = BatchTopKTrainingSAEConfig(
        d_in=residuals.shape[1],
        d_sae=recipe.features,
        k=recipe.mean_active,
        device=device,
        normalize_activations="none",
        apply_b_dec_to_input=False,
    )
    sae = BatchTopKTrainingSAE(config)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=recipe.steps * recipe.batch,
            train_batch_size_samples=recipe.batch,
            lr=2e-3,
            lr_end=2e-4,
            lr_warm_up_steps=recipe.steps // 20,
            lr_decay_steps=recipe.steps // 4,
            device=device,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae,
        batches(),
    )
    trainer.fit()
    state = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    norm = state["W_dec"].norm(dim=1).clamp_min(1e-6)
    # Undo the scaling x_scaled = (x - centre) / scale, and give decoder rows norm 1, so that activations are in the
    # units of the residual stream, as in Gemma Scope.
    w_enc = state["W_enc"] * norm
    return Sae(
        layer=layer,
        id=f"layer_{layer}_width_{recipe.features}_l0_small",
        w_enc=w_enc,
        b_enc=state["b_enc"] * norm * scale - centre @ w_enc,
        w_dec=state["W_dec"] / norm[:, None],
        b_dec=state["b_dec"] * scale + centre,
        threshold=state["threshold"] * norm * scale,
    )


def write_saes(folder: Path, residuals: Tensor, seed: int, recipe: SaeRecipe, model_name: str) -> None:
    """Train an SAE per layer on residuals [n, layers, d_model], and save them under `folder`/resid_post_all."""
    for layer in track(range(residuals.shape[1]), "training SAEs"):
        sae = train_sae(residuals[:, layer], layer, seed, recipe)
        save_sae(sae, folder / "resid_post_all" / sae.id, model_name)

"""The names that modules of Gemma 3 had in earlier versions of transformers, as adapters saved there use them."""

PRESENT_NAMES = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.language_model.",
    r"^(model\.)?vision_tower\.(vision_model\.)?": "model.vision_tower.",
    r"^multi_modal_projector\.": "model.multi_modal_projector.",
}
"""Pattern of an earlier module path -> its present replacement; the first that matches counts.

transformers 4.50 and 4.51 had tower, projector and text model with its head side by side; since 4.52 `model` holds them
beside the head. transformers 5 took a level out of the tower. peft itself renames low-rank updates, but not whole
modules, tokens and biases that are saved beside them.
"""

"""finetune: train a LoRA on the layers that `interp` found, and tell honestly whether it worked."""

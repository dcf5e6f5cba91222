"""Runs the `finetune` command as `python -m finetune`, which `accelerate launch -m finetune` needs."""

from finetune.cli.app import run

run()

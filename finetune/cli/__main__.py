"""`python -m finetune.cli`, documented before release 0.2; use `python -m finetune`."""

from finetune.cli.app import run

run()

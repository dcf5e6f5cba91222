"""`python -m finetune`, for accelerate launch -m."""

from finetune.cli.app import main

main()

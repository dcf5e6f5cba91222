"""`python -m interp`, for accelerate launch -m."""

from interp.cli.app import run

run()

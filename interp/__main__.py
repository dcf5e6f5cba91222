"""`python -m interp`, for accelerate launch -m."""

from interp.cli import main

main()

"""A list of features for Neuronpedia on the terminal."""

from typing import Any

from rich.console import Console

from interp.runtime.console import results_console


def show_list(content: dict[str, Any], console: Console | None = None) -> None:
    """Print a list of features for Neuronpedia, as `interp.saes.neuronpedia.feature_list` makes it."""
    console = console or results_console()
    for added, page in zip(content["featuresToAdd"], content["pages"], strict=True):
        console.print(f"[bold]{page}[/bold]", soft_wrap=True)
        console.print(f"  {added['description']}", soft_wrap=True, markup=False)
    if content["left_out"]:
        console.print(f"features whose SAE has no page: {', '.join(content['left_out'])}")
    console.print(f"\nall at once: {content['quick_list']}", soft_wrap=True, markup=False)

"""Which SAEs to use: the settings that the commands share."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from interp.paths import EMBEDDED, WORLD
from interp.runtime.options import option


@dataclass(frozen=True)
class SaeSpec:
    """A source of SAEs of the residual stream, and which one of each layer to take from it."""

    saes: str = option(
        str(WORLD / "saes"),
        "SAEs of the residual stream: gemma-scope-2 (every layer, with Neuronpedia pages where there are any; for "
        "other sizes than 4B as gemma-scope-2-12b-it), a folder in the layout of Gemma Scope 2 or sae-lens, a sae-lens "
        "release (gemma-scope-2-4b-it-res), or a hub repository and folder (google/gemma-scope-2-4b-it:resid_post).",
        shown=EMBEDDED,
    )
    sae_width: Literal["16k", "65k", "262k", "1m"] | None = option(
        None, "Number of features, where a layer has several SAEs.", shown="16k from the hub"
    )
    l0: Literal["small", "medium", "big"] | None = option(
        None,
        "Sparsity, where a layer has several SAEs.",
        shown="from the hub small, or medium where Neuronpedia has pages",
    )

    def locate(self, layers: Collection[int] | None = None) -> dict[int, Path]:
        """The SAE folder of every layer, layer -> folder; from the hub only those of `layers`, by default of all.

        Raises InputError as `interp.saes.locate.locate_saes`.
        """
        # Here, because the command line reads the fields above and must start without torch.
        from interp.saes.locate import locate_saes

        return locate_saes(self.saes, self.sae_width, self.l0, layers)

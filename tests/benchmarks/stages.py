"""The stages of a search, for both ways of timing them.

`stopwatch.py` wraps them and counts what each does; `whole.py` looks from outside at which one runs. A stage is a
function, and its time is that without the stages that it calls.
"""

from typing import NamedTuple

FIND, SEARCH = "interp.search.find", "interp.search.stages"
SCREENING, PARTS, PATCHING = "interp.screening.layers", "interp.search.difference_parts", "interp.search.layer_stage"


class Stage(NamedTuple):
    """A function of a search."""

    function: str
    """Its name."""
    title: str | None = None
    """The row of `whole.py`; None if the time is that of the stage that calls it."""
    module: str | None = None
    """The module in whose namespace `stopwatch.py` wraps it; None if it is not wrapped."""


STAGES = (
    Stage("_find_and_load", "imports"),
    Stage("load_vlm", "loading the model"),
    Stage("load_questions", "reading questions"),
    Stage("encode_images", "images: decoding and the tower"),
    Stage("pack_prompts", "tokenizing and packing"),
    Stage("measure_prompts", "all prompts through the language model", FIND),
    Stage("margin_gradients", "gradients at the paraphrases", SEARCH),
    Stage("_path_gradients", "gradients on the paths", SEARCH),
    Stage("screen", "screening, the rest", FIND),
    Stage("load_sae", None, SEARCH),
    Stage("encode_sparse", None, SCREENING),
    Stage("screen_layer", "statistics of all features", SCREENING),
    Stage("attribute", None, SCREENING),
    Stage("best_family", "families of features", SCREENING),
    Stage("reconstruct", None, SCREENING),
    Stage("judge_transfer", None, SCREENING),
    Stage("difference_parts", "prompts with other images, parts of differences", PATCHING),
    Stage("swap_images", None, PARTS),
    Stage("measure_together", None, PARTS),
    Stage("answer_directions", None, PARTS),
    Stage("with_controls", None, PARTS),
    Stage("patch_whole_layers", "patches of layers, answers and registers", FIND),
    Stage("patch_layers", None, PATCHING),
    Stage("patch_answers", None, PATCHING),
    Stage("patch_register", None, PATCHING),
    Stage("joint_effects", None, PATCHING),
    Stage("judge_layers", "profile, windows and their test", FIND),
    Stage("layer_profile", None, PATCHING),
    Stage("formality", None, PATCHING),
    Stage("test_ranges", None, PATCHING),
    Stage("patch_candidates", "patches of features", FIND),
    Stage("patch_families", "patches of families", FIND),
    Stage("name_gate", "patches of the gate", FIND),
    Stage("recovery_by_pair", "the first feature pair by pair", FIND),
    Stage("write_run", "tables and figures"),
    Stage("main", "the rest"),
)
"""In the order in which they run; those that a version lacks are left out."""

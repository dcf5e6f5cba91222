"""interp: find the features and layers that make a vision-language model change its answer to a reworded question.

    import interp

    vlm = interp.load_vlm()
    questions = interp.load_questions(split="train")
    result = interp.find_features(vlm, interp.WORLD / "saes", questions, split="train")
    result.plot_profile()

Every name here is that of the function behind a command, or of what it takes and gives.
"""

from typing import TYPE_CHECKING

from interp.errors import InputError
from interp.lazy import on_demand

if TYPE_CHECKING:
    from interp.bridge import lens_inputs
    from interp.demo import WORLD
    from interp.feature_study import FeatureStudy, study_feature
    from interp.find import FindResult, FindSettings, find_features
    from interp.measurement import measure
    from interp.prompts import PromptStyle, answer_margin
    from interp.questions import Question, load_questions, prompt_table
    from interp.run import save_result
    from interp.sae_sources import locate_saes
    from interp.saes import Sae, load_sae
    from interp.transfer import transfer_check
    from interp.vlm import Vlm, load_vlm
else:
    __getattr__, __dir__ = on_demand(
        "interp",
        {
            "bridge": ["lens_inputs"],
            "demo": ["WORLD"],
            "feature_study": ["FeatureStudy", "study_feature"],
            "find": ["FindResult", "FindSettings", "find_features"],
            "prompts": ["PromptStyle", "answer_margin"],
            "questions": ["Question", "load_questions", "prompt_table"],
            "run": ["save_result"],
            "sae_sources": ["locate_saes"],
            "saes": ["Sae", "load_sae"],
            "transfer": ["transfer_check"],
            "measurement": ["measure"],
            "vlm": ["Vlm", "load_vlm"],
        },
    )

__all__ = [
    "WORLD",
    "FeatureStudy",
    "FindResult",
    "FindSettings",
    "InputError",
    "PromptStyle",
    "Question",
    "Sae",
    "Vlm",
    "answer_margin",
    "find_features",
    "lens_inputs",
    "load_questions",
    "load_sae",
    "load_vlm",
    "locate_saes",
    "measure",
    "prompt_table",
    "save_result",
    "study_feature",
    "transfer_check",
]

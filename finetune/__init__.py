"""finetune: train a LoRA on the layers that `interp` found, and tell honestly whether it worked.

    import finetune

    evaluation = finetune.train_and_evaluate(model, questions, out, finetune.TrainSettings(), layers="4-5")
    evaluation.sentences

Every name here is that of the function behind a command, or of what it takes and gives.
"""

from typing import TYPE_CHECKING

from interp.lazy import on_demand

if TYPE_CHECKING:
    from finetune.ablate.plan import AblationSettings
    from finetune.ablate.result import Ablation
    from finetune.ablate.run import ablate_saved
    from finetune.evaluate import Evaluation
    from finetune.grounding.looking import MapSettings
    from finetune.grounding.study import GroundingSettings, GroundingStudy, study_grounding
    from finetune.run import evaluate_saved, train_and_evaluate
    from finetune.settings import TrainSettings
else:
    __getattr__, __dir__ = on_demand(
        "finetune",
        {
            "ablate.plan": ["AblationSettings"],
            "ablate.result": ["Ablation"],
            "ablate.run": ["ablate_saved"],
            "evaluate": ["Evaluation"],
            "grounding.looking": ["MapSettings"],
            "grounding.study": ["GroundingSettings", "GroundingStudy", "study_grounding"],
            "run": ["evaluate_saved", "train_and_evaluate"],
            "settings": ["TrainSettings"],
        },
    )

__all__ = [
    "Ablation",
    "AblationSettings",
    "Evaluation",
    "GroundingSettings",
    "GroundingStudy",
    "MapSettings",
    "TrainSettings",
    "ablate_saved",
    "evaluate_saved",
    "study_grounding",
    "train_and_evaluate",
]

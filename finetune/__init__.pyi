from .ablation.result import Ablation as Ablation
from .ablation.run import ablate_saved as ablate_saved
from .ablation.settings import AblationSettings as AblationSettings
from .evaluation.benchmark import benchmark as benchmark
from .evaluation.result import Evaluation as Evaluation
from .evaluation.run import evaluate_saved as evaluate_saved
from .evaluation.saved import load_evaluation as load_evaluation
from .evaluation.saved import save_evaluation as save_evaluation
from .evaluation.settings import EvaluationSettings as EvaluationSettings
from .grounding.settings import GroundingSettings as GroundingSettings
from .grounding.settings import MapSettings as MapSettings
from .grounding.study import GroundingStudy as GroundingStudy
from .grounding.study import study_grounding as study_grounding
from .lora.settings import TrainSettings as TrainSettings
from .training.run import train_and_evaluate as train_and_evaluate

__version__: str

from .feature.study import FeatureStudy as FeatureStudy
from .feature.study import study_feature as study_feature
from .importing.importer import import_questions as import_questions
from .measurement.margins import measure as measure
from .model.lens_inputs import lens_inputs as lens_inputs
from .model.load import load_vlm as load_vlm
from .model.prompts import PromptStyle as PromptStyle
from .model.prompts import answer_margin as answer_margin
from .model.spec import ModelSpec as ModelSpec
from .model.vlm import Vlm as Vlm
from .paths import WORLD as WORLD
from .questions.files import load_questions as load_questions
from .questions.schema import Question as Question
from .questions.spec import DataSpec as DataSpec
from .questions.tables import prompt_table as prompt_table
from .runtime.errors import InputError as InputError
from .saes.locate import locate_saes as locate_saes
from .saes.sae import Sae as Sae
from .saes.sae import load_sae as load_sae
from .screening.transfer import transfer_check as transfer_check
from .search.find import find_features as find_features
from .search.result import FindResult as FindResult
from .search.run_folder import save_result as save_result
from .search.settings import FindSettings as FindSettings

__version__: str

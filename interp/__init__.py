"""interp: find the features and layers that make a vision-language model change its answer to a reworded question.

    import interp

    vlm = interp.load_vlm()
    questions = interp.load_questions(split="train")
    result = interp.find_features(vlm, interp.WORLD / "saes", questions, split="train")
    result.plot_profile()

Every public name has an example in its docstring; together they are one session, in which names such as `vlm`,
`questions` and `result` are those of `load_vlm`, `load_questions` and `find_features`, and which the tests run.

The public names are the functions behind the commands and the types that these take and return. `__init__.pyi` lists
them with their modules. A module is imported when one of its names is first used, so `import interp` is fast.
"""

import lazy_loader

from interp import _moved
from interp._version import __version__ as __version__

_moved.install()
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

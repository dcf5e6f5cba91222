"""finetune: train a LoRA on the layers that `interp` found, and evaluate whether it helped.

    import finetune
    import interp

    evaluation = finetune.train_and_evaluate(interp.ModelSpec(), interp.DataSpec(), "adapter", layers="4-5")
    evaluation.sentences

Every public name is the function of a command, or something that it takes or returns. `__init__.pyi` lists them with
their modules; a module is imported when one of its names is first used.
"""

import lazy_loader

from interp import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

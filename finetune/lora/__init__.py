"""The adapter: which layers, which rank, and the folder that it is saved in."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"modules": ["add_lora"]})

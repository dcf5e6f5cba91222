"""The adapter: its settings, its layers, the LoRA itself, and the folder that it is saved in.

`add_lora` is imported when it is first used; other packages import the rest from its modules.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"modules": ["add_lora"]})

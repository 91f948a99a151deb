"""One run: a config in, a trained and evaluated model out.

from trialbook.trainer import Config, run
result = run(Config().override({"optimizer.learning_rate": 0.1}), "runs/first")
"""

import lazy_loader

# What is public, and where it is, is in `__init__.pyi`; a name is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

if __name__ != "trialbook.trainer":
  # A second copy of every module would be loaded otherwise.
  raise ImportError(f"{__name__} is imported as trialbook.trainer; the command is `trialbook train`")

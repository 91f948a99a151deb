"""Datasets, and the one function that gives batch t: `load(config, ...).train_batch(t)`."""

import lazy_loader

# What is public, and where it is, is in `__init__.pyi`; a name is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

if __name__ != "trialbook.input_pipeline":
  # A second copy of every module would be loaded otherwise.
  raise ImportError(f"{__name__} is imported as trialbook.input_pipeline; the command is `trialbook data`")

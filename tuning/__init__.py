"""Many runs that answer one question: search spaces, studies, their trials and results.

from trialbook.tuning import Halton, Log, Minimize, Study, run_study
study = Study(name="rate", goal="Which learning rate?", config=config, objective=Minimize("validation/error"),
              nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)}, trials=8, search=Halton(seed=0))
results = run_study(study, "runs/rate", workers=2)
"""

import lazy_loader

# What is public, and where it is, is in `__init__.pyi`; a name is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

if __name__ != "trialbook.tuning":
  # A second copy of every module would be loaded otherwise.
  raise ImportError(f"{__name__} is imported as trialbook.tuning; the command is `trialbook tune`")

"""Train supervised models from one device to a TPU pod, and tune them by the Deep Learning Tuning Playbook.

from trialbook import Config, run
result = run(Config().override({"optimizer.learning_rate": 0.1}), "runs/first")
"""

import lazy_loader

__version__ = "0.2.0.dev0"

# What is public, and where it is, is in `__init__.pyi`; a name is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

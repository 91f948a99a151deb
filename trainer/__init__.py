"""One run: a config in, a trained and evaluated model out.

from trainer import Config, run
result = run(Config().override({"optimizer.learning_rate": 0.1}), "runs/first")
"""

from trainer.config import Averaging, Config, Evaluation, Logging, Precision, Selection, prepend_warmup
from trainer.config_files import load_config
from trainer.overrides import ConfigError, UserError
from trainer.program import Programs
from trainer.train import RunResult, run

__all__ = [
  "Averaging",
  "Config",
  "ConfigError",
  "Evaluation",
  "Logging",
  "Precision",
  "Programs",
  "RunResult",
  "Selection",
  "UserError",
  "load_config",
  "prepend_warmup",
  "run",
]

"""One run: a config in, a trained and evaluated model out.

from trainer import Config, run
result = run(Config().override({"optimizer.learning_rate": 0.1}), "runs/first")
"""

from trainer.config import (
  Averaging,
  Checkpointing,
  Config,
  Evaluation,
  Job,
  Logging,
  Precision,
  Selection,
  prepend_warmup,
)
from trainer.config_files import load_config
from trainer.guard import Guard
from trainer.overrides import BrokenDataError, ConfigError, OtherDataError, UserError
from trainer.parameter_groups import ParameterGroup
from trainer.program import Programs, static_key
from trainer.results import RunResult, read_result
from trainer.train import run
from trainer.trained import TrainedModel, load
from trainer.warm_start import WarmStart

__all__ = [
  "Averaging",
  "BrokenDataError",
  "Checkpointing",
  "Config",
  "ConfigError",
  "Evaluation",
  "Guard",
  "Job",
  "Logging",
  "OtherDataError",
  "ParameterGroup",
  "Precision",
  "Programs",
  "RunResult",
  "Selection",
  "TrainedModel",
  "UserError",
  "WarmStart",
  "load",
  "load_config",
  "prepend_warmup",
  "read_result",
  "run",
  "static_key",
]

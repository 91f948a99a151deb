"""A config of a training that is unstable, and a regression problem with outliers."""

from benchmarks.unstable import ResidualMlp, outliers
from trialbook.trainer import Config

__all__ = ["ResidualMlp", "config", "outliers"]


def config() -> Config:
  """Return a training of the residual network on digits, at the best learning rate that is stable."""
  return Config().override(
    {
      "model": {"name": "residual_mlp:ResidualMlp"},
      "optimizer.learning_rate": 1e-3,
      "schedule": {"name": "cosine"},
      "max_train_steps": 1000,
      "batch_size": 64,
      "evaluation.every_steps": 100,
      "checkpointing.every_evaluations": 0,
      "compilation_cache": None,
    }
  )

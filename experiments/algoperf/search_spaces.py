"""AdamW against NAdamW, in the search spaces of AlgoPerf's baselines.

The spaces are those of Dahl et al. (2023), arXiv:2306.07179: `tuning_search_space.json` of `adamw` and `nadamw` in
algorithms/archived_paper_baselines of github.com/mlcommons/algorithmic-efficiency. β₂ is 0.999 and ε is 1e-8. A warmup
over 5% of the steps is followed by a cosine decay to 0. Two things differ here: weight decay leaves out biases and the
parameters of normalization, and NAdamW adds ε before its bias correction.
"""

from collections.abc import Mapping
from typing import Any

from trialbook import Config, Discrete, Halton, Log, Objective, OneOf, Study

WARMUP = 0.05
"""Share of the steps."""


def adamw_against_nadamw(
  name: str, workload: Mapping[str, Any], *, goal: str, objective: Objective, label_smoothing: str | None = None
) -> Study:
  """Return the study of a workload.

  Args:
    name: of the study.
    workload: overrides of the config, by dotted path.
    goal: of the study.
    objective: of the study.
    label_smoothing: path of the setting; None: the workload's loss has none, and ignores this part of the space.
  """
  config = Config().override(workload)
  smoothing = {} if label_smoothing is None else {label_smoothing: Discrete((0.1, 0.2))}
  return Study(
    name=name,
    goal=goal,
    config=config.override(
      {
        "optimizer.beta2": 0.999,
        "optimizer.epsilon": 1e-8,
        "schedule.name": "cosine",
        "schedule.warmup_steps": int(WARMUP * config.max_train_steps),
      }
    ),
    objective=objective,
    scientific={
      "optimizer": OneOf(
        {
          "adamw": {"learning_rate": Log(1e-4, 1e-2), "one_minus_beta1": Log(2e-2, 0.5)},
          "nadam": {"learning_rate": Log(1e-4, 1e-2), "one_minus_beta1": Log(4e-3, 0.1)},
        }
      )
    },
    nuisance={
      "optimizer.weight_decay": Log(5e-3, 1.0),
      **smoothing,
      "model.traced.dropout_rate": Discrete((0.0, 0.1)),
    },
    trials=40,
    search=Halton(seed=0),
  )

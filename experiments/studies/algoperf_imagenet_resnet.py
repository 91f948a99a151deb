"""Nesterov against heavy-ball momentum on AlgoPerf's ImageNet ResNet workload, in the search spaces of its baselines.

trialbook tune run --study=experiments/studies/algoperf_imagenet_resnet.py --dir=runs/imagenet_resnet

The spaces are those of Dahl et al. (2023), arXiv:2306.07179: `tuning_search_space.json` of `nesterov` and `momentum` in
algorithms/archived_paper_baselines of github.com/mlcommons/algorithmic-efficiency. A warmup over 5% of the steps is
followed by a linear decay over 90% of the others, and by a constant end. The spaces have a dropout rate too, but the
published ResNet-50 has no dropout.

Published weight decay λ, from 1e-7 to 5e-5, is part of the gradient, so momentum multiplies it by up to 1 / (1 − β).
Here it is not, so its range is multiplied by 1 / (1 − β) in the middle of β's range. It leaves out biases and scales.

The study trains the tiny size. For the published size, replace `config()` by `published()`.
"""

from trialbook import Config, Discrete, Halton, Log, Minimize, OneOf, Study
from trialbook.experiments.algoperf import imagenet_resnet

WARMUP, DECAY = 0.05, 0.9
MIDDLE = (5e-3 * 0.3) ** 0.5
"""1 − β in the middle of its range, on a log scale."""


def get_study() -> Study:
  config = Config().override(imagenet_resnet.config())
  warmup_steps = int(WARMUP * config.max_train_steps)
  space = {"learning_rate": Log(2e-2, 5.0), "one_minus_momentum": Log(5e-3, 0.3)}
  return Study(
    name="imagenet_resnet",
    goal="Does Nesterov momentum reach a lower error than heavy-ball momentum?",
    config=config.override(
      {
        "schedule.warmup_steps": warmup_steps,
        "schedule.decay_steps": int(DECAY * (config.max_train_steps - warmup_steps)),
      }
    ),
    objective=Minimize("validation/error"),
    scientific={"optimizer": OneOf({"nesterov": space, "momentum": space})},
    nuisance={
      "optimizer.weight_decay": Log(1e-7 / MIDDLE, 5e-5 / MIDDLE),
      "schedule.end_factor": Discrete((1e-3, 1e-2)),
      "task.label_smoothing": Discrete((0.1, 0.2)),
    },
    trials=40,
    search=Halton(seed=0),
  )

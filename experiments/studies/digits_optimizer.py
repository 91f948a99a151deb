"""Adam against Nesterov momentum on handwritten digits: twenty trials, each in about five seconds.

trialbook tune run --study=experiments/studies/digits_optimizer.py --dir=runs/digits_optimizer --workers=2

Takes about a minute with 2 workers on 2 cores (CPU).
"""

from trialbook.experiments import digits_resnet
from trialbook.tuning import Halton, Log, Minimize, OneOf, Study


def get_study() -> Study:
  return Study(
    name="digits_optimizer",
    goal="Does Adam beat Nesterov momentum in 400 steps?",
    config=digits_resnet.get_config().override({"max_train_steps": 400, "evaluation.every_steps": 20}),
    objective=Minimize("validation/error"),
    scientific={
      "optimizer": OneOf(
        {
          "nesterov": {"learning_rate": Log(1e-3, 10.0), "one_minus_momentum": Log(1e-3, 1.0)},
          "adam": {"learning_rate": Log(1e-5, 1e-1), "one_minus_beta1": Log(1e-3, 1.0)},
        }
      )
    },
    nuisance={"optimizer.weight_decay": Log(1e-6, 1e-2)},
    trials=20,
    search=Halton(seed=0),
  )

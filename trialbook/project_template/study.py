"""The study: which learning rate and which smoothing are best? Eight trials.

trialbook tune run --study=study.py --dir=runs/study
trialbook tune report runs/study
"""

import pathlib

from trialbook import Halton, Linear, Log, Minimize, Study, load_config


def get_study() -> Study:
  return Study(
    name="my_project",
    goal="Which learning rate and label smoothing are best in 200 steps?",
    config=load_config(pathlib.Path(__file__).with_name("config.py")).override({"max_train_steps": 200}),
    objective=Minimize("validation/error"),
    nuisance={"optimizer.learning_rate": Log(1e-4, 0.1), "task.traced.label_smoothing": Linear(0.0, 0.3)},
    trials=8,
    search=Halton(seed=0),
  )

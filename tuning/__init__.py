"""Many runs that answer one question: search spaces, studies, their trials and results.

from tuning import Halton, Log, Minimize, Study, run_study
study = Study(name="rate", goal="Which learning rate?", config=config, objective=Minimize("validation/error"),
              nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)}, trials=8, search=Halton(seed=0))
results = run_study(study, "runs/rate", workers=2)
"""

from tuning.bayesian import BayesianOptimization
from tuning.ready_spaces import adam_by_budget, optimizer_spaces, under
from tuning.reporting.report import report
from tuning.results import StudyResults, Trial, read_results
from tuning.rounds import run_round
from tuning.runner import run_study
from tuning.search import Grid, Halton, Listed, Uniform
from tuning.space import Discrete, Integer, Linear, Log, OneOf, Optional, ReverseLog
from tuning.study import Maximize, Minimize, Objective, Round, Study, by_scientific_value
from tuning.study_files import load_study
from tuning.trial import Infeasible

__all__ = [
  "BayesianOptimization",
  "Discrete",
  "Grid",
  "Halton",
  "Infeasible",
  "Integer",
  "Linear",
  "Listed",
  "Log",
  "Maximize",
  "Minimize",
  "Objective",
  "OneOf",
  "Optional",
  "ReverseLog",
  "Round",
  "Study",
  "StudyResults",
  "Trial",
  "Uniform",
  "adam_by_budget",
  "by_scientific_value",
  "load_study",
  "optimizer_spaces",
  "read_results",
  "report",
  "run_round",
  "run_study",
  "under",
]

"""NAdamW against AdamW on AlgoPerf's OGBG workload, in the search spaces of its baselines.

trialbook tune run --study=experiments/studies/algoperf_ogbg.py --dir=runs/ogbg

The spaces, and what differs, are described in experiments/algoperf/search_spaces.py.

The study trains the tiny size. For the published size, replace `ogbg.config()` by `ogbg.published()`.
"""

from trialbook import Maximize, Study
from trialbook.experiments.algoperf import ogbg
from trialbook.experiments.algoperf.search_spaces import adamw_against_nadamw


def get_study() -> Study:
  return adamw_against_nadamw(
    "ogbg",
    ogbg.config(),
    goal="Does NAdamW reach a higher mean average precision than AdamW?",
    objective=Maximize("validation/mean_average_precision"),
    label_smoothing="task.traced.label_smoothing",
  )

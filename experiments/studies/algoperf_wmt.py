"""NAdamW against AdamW on AlgoPerf's WMT workload, in the search spaces of its baselines.

trialbook tune run --study=experiments/studies/algoperf_wmt.py --dir=runs/wmt

The spaces, and what differs, are described in experiments/algoperf/search_spaces.py.

The study trains the tiny size. For the published size, replace `wmt.config()` by `wmt.published()`.
"""

from trialbook import Maximize, Study
from trialbook.experiments.algoperf import wmt
from trialbook.experiments.algoperf.search_spaces import adamw_against_nadamw


def get_study() -> Study:
  return adamw_against_nadamw(
    "wmt",
    wmt.config(),
    goal="Does NAdamW reach a higher BLEU than AdamW?",
    objective=Maximize("validation/bleu"),
    label_smoothing="task.traced.label_smoothing",
  )

"""NAdamW against AdamW on AlgoPerf's Criteo 1TB workload, in the search spaces of its baselines.

trialbook tune run --study=experiments/studies/algoperf_criteo1tb.py --dir=runs/criteo1tb

The spaces, and what differs, are described in experiments/algoperf/search_spaces.py. The published spaces
have label smoothing too, which this workload's loss ignores.

The study trains the tiny size. For the published size, replace `criteo1tb.config()` by `criteo1tb.published()`.
"""

from trialbook import Minimize, Study
from trialbook.experiments.algoperf import criteo1tb
from trialbook.experiments.algoperf.search_spaces import adamw_against_nadamw


def get_study() -> Study:
  return adamw_against_nadamw(
    "criteo1tb",
    criteo1tb.config(),
    goal="Does NAdamW reach a lower cross-entropy than AdamW?",
    objective=Minimize("validation/loss"),
  )

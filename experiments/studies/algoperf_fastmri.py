"""NAdamW against AdamW on AlgoPerf's fastMRI workload, in the search spaces of its baselines.

trialbook tune run --study=experiments/studies/algoperf_fastmri.py --dir=runs/fastmri

The spaces, and what differs, are described in experiments/algoperf/search_spaces.py. The published spaces
have label smoothing too, which this workload's loss ignores.

The study trains the tiny size. For the published size, replace `fastmri.config()` by `fastmri.published()`.
"""

from trialbook import Maximize, Study
from trialbook.experiments.algoperf import fastmri
from trialbook.experiments.algoperf.search_spaces import adamw_against_nadamw


def get_study() -> Study:
  return adamw_against_nadamw(
    "fastmri",
    fastmri.config(),
    goal="Does NAdamW reach a higher SSIM than AdamW?",
    objective=Maximize("validation/ssim"),
  )

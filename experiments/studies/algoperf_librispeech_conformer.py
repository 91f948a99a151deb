"""NAdamW against AdamW on AlgoPerf's LibriSpeech Conformer workload, in the search spaces of its baselines.

trialbook tune run --study=experiments/studies/algoperf_librispeech_conformer.py --dir=runs/librispeech_conformer

The spaces, and what differs, are described in experiments/algoperf/search_spaces.py. The published spaces
have label smoothing too, which this workload's loss ignores.

The study trains the tiny size. For the published size, replace `config()` by `published()`.
"""

from trialbook import Minimize, Study
from trialbook.experiments.algoperf import librispeech_conformer
from trialbook.experiments.algoperf.search_spaces import adamw_against_nadamw


def get_study() -> Study:
  return adamw_against_nadamw(
    "librispeech_conformer",
    librispeech_conformer.config(),
    goal="Does NAdamW reach a lower word error rate than AdamW?",
    objective=Minimize("validation/wer"),
  )

"""NAdamW against AdamW on AlgoPerf's ImageNet ViT workload, in the search spaces of its baselines.

trialbook tune run --study=experiments/studies/algoperf_imagenet_vit.py --dir=runs/imagenet_vit

The spaces, and what differs, are described in experiments/algoperf/search_spaces.py.

The study trains the tiny size. For the published size, replace `imagenet_vit.config()` by `imagenet_vit.published()`.
"""

from trialbook import Minimize, Study
from trialbook.experiments.algoperf import imagenet_vit
from trialbook.experiments.algoperf.search_spaces import adamw_against_nadamw


def get_study() -> Study:
  return adamw_against_nadamw(
    "imagenet_vit",
    imagenet_vit.config(),
    goal="Does NAdamW reach a lower error than AdamW?",
    objective=Minimize("validation/error"),
    label_smoothing="task.label_smoothing",
  )

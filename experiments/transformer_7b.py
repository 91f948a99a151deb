"""A transformer of 6.7 billion parameters, for the tables of docs/pods.md; its tokens are made up.

trialbook launch preflight --config=experiments/transformer_7b.py --topology=v5e:16x16

32 layers of width 4096, a gated feed-forward network of 11,008, 32,000 tokens, texts of 2048.
"""

from trialbook.experiments import transformer_1b
from trialbook.trainer import Config


def get_config() -> Config:
  return transformer_1b.get_config().override(
    {
      "dataset.input_shape": (2048,),
      "model.width": 4096,
      "model.depth": 32,
      "model.heads": 32,
      "model.mlp_ratio": 11_008 / 4096,
      "batch_size": 256,
      "evaluation.batch_size": 256,
      "mesh.fsdp": 256,
    }
  )

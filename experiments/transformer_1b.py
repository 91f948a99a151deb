"""A transformer of 1.2 billion parameters, for the tables of docs/pods.md; its tokens are made up.

trialbook launch preflight --config=experiments/transformer_1b.py --topology=v5e:4x4

Its shape is that of the model with which docs/pods.md compares MaxText: 16 layers of width 2048, a gated feed-forward
network of 8192, 32,000 tokens, texts of 1024.
"""

from trialbook.input_pipeline import Synthetic
from trialbook.models import TransformerConfig
from trialbook.trainer import Config, Evaluation
from trialbook.trainer.config import MeshSettings, Precision
from trialbook.trainer.optimizers import AdamW
from trialbook.trainer.schedules import Cosine
from trialbook.trainer.tasks import LanguageModel


def get_config() -> Config:
  return Config(
    dataset=Synthetic(
      kind="language_model", input_shape=(1024,), num_outputs=32_000, train_examples=2048, validation_examples=1024
    ),
    task=LanguageModel(),
    model=TransformerConfig(
      width=2048,
      depth=16,
      heads=16,
      mlp_ratio=4,
      activation="swiglu",
      tie_embeddings=False,
      remat="full",
      logit_tiles=8,
    ),
    optimizer=AdamW(learning_rate=3e-4, weight_decay=0.1),
    schedule=Cosine(warmup_steps=1000),
    max_train_steps=20_000,
    batch_size=64,
    clip_norm=1.0,
    precision=Precision(compute_dtype="bfloat16"),
    mesh=MeshSettings(fsdp=16),
    evaluation=Evaluation(every_steps=1000, batch_size=64, predictions=0),
  )

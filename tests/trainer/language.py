"""The smallest transformer over text whose layers are large enough to be split over devices."""

import pathlib
from typing import Any

import numpy as np

from trialbook.input_pipeline import Text
from trialbook.models import TransformerConfig
from trialbook.trainer import Config, Evaluation
from trialbook.trainer.optimizers import Adam
from trialbook.trainer.tasks import LanguageModel

DEPTH, WIDTH, HIDDEN = 3, 128, 256


def language(folder: pathlib.Path, **changes: Any) -> Config:
  """A config on a text that is written into the folder; 20 steps."""
  path = folder / "text"
  if not path.exists():
    path.write_bytes(np.random.default_rng(0).choice(list(b"a few words"), size=8000).astype(np.uint8).tobytes())
  config = Config(
    dataset=Text(length=16, path=str(path)),
    task=LanguageModel(),
    model=TransformerConfig(width=WIDTH, depth=DEPTH, heads=4, mlp_ratio=HIDDEN / WIDTH, remat="full"),
    optimizer=Adam(learning_rate=1e-3),
    max_train_steps=20,
    batch_size=16,
    evaluation=Evaluation(every_steps=10, batch_size=16, train_examples=0, predictions=0),
    export=False,
    compilation_cache=None,
  )
  return config.override({name.replace("__", "."): value for name, value in changes.items()})

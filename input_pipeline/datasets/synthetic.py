"""Examples that are made up, of any shape: for benchmarks and tests, where the numbers mean nothing."""

from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from trialbook.input_pipeline import source
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.settings import Settings, Static

_LATENTS = 16
_BYTES_PER_CHUNK = 2**26


class Synthetic(Settings):
  """Random inputs with the answers of a fixed random teacher, which a linear model can learn at any input
  size.

  Sixteen latent normal variables z make the inputs (a random projection of z, variance 1) and the answers
  (the largest of `num_outputs` random projections of z is the class; or the projections themselves are the
  targets).
  """

  name: Static[Literal["synthetic"]] = "synthetic"
  kind: Static[Literal["classification", "regression"]] = "classification"
  input_shape: Static[tuple[PositiveInt, ...]] = Field(default=(32, 32, 3), min_length=1)
  input_dtype: Static[Literal["float32", "uint8"]] = "float32"
  """uint8 inputs are round(128 + 32 x), clipped: images as a decoder gives them."""
  num_outputs: Static[int] = Field(default=10, ge=1)
  """Number of classes, or of targets."""
  train_examples: Static[int] = Field(default=10_000, ge=1)
  validation_examples: Static[int] = Field(default=1_000, ge=1)
  test_examples: Static[int] = Field(default=1_000, ge=1)
  seed: Static[int] = Field(default=0, ge=0)
  """Seed of the teacher and the examples; the run's own seed changes only their order and augmentation."""
  augmentation: Augmentation | None = None

  def read(self) -> source.Source:
    """Make the examples; this costs a few ns per number."""
    generator = np.random.default_rng(self.seed)
    projection = generator.standard_normal((_LATENTS, int(np.prod(self.input_shape))), np.float32) / np.sqrt(
      np.float32(_LATENTS)
    )
    teacher = generator.standard_normal((_LATENTS, self.num_outputs), np.float32) / np.sqrt(np.float32(_LATENTS))
    counts = (self.train_examples, self.validation_examples, self.test_examples)
    inputs, outputs = {}, {}
    for split, count in zip(source.SPLITS, counts, strict=True):
      latents = generator.standard_normal((count, _LATENTS), np.float32)
      inputs[split] = self._project(latents, projection)
      outputs[split] = latents @ teacher
    notice = f"SYNTHETIC DATA (teacher seed {self.seed}): results say nothing about any real task"
    if self.kind == "regression":
      return source.regression("synthetic", inputs, outputs, notice)
    labels = {split: output.argmax(axis=1) for split, output in outputs.items()}
    return source.classification("synthetic", inputs, labels, self.num_outputs, notice)

  def _project(self, latents: np.ndarray, projection: np.ndarray) -> np.ndarray:
    inputs = np.empty((len(latents), projection.shape[1]), self.input_dtype)
    rows = max(1, _BYTES_PER_CHUNK // projection[0].nbytes)
    for start in range(0, len(latents), rows):
      chunk = latents[start : start + rows] @ projection
      inputs[start : start + rows] = (
        np.clip(np.rint(128 + 32 * chunk), 0, 255) if self.input_dtype == "uint8" else chunk
      )
    return inputs.reshape(-1, *self.input_shape)

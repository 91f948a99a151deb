"""Examples that are made up, of any shape: for benchmarks and tests, where the numbers mean nothing."""

from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from trialbook.errors import DataError
from trialbook.input_pipeline import source
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.settings import Settings, Static

_LATENTS = 16
_BYTES_PER_CHUNK = 2**26
_FOLLOWS = 0.9


class Synthetic(Settings):
  """Random inputs with the answers of a fixed random teacher, which a linear model can learn at any input
  size.

  Sixteen latent normal variables z make the inputs (a random projection of z, variance 1) and the answers
  (the largest of `num_outputs` random projections of z is the class; or the projections themselves are the
  targets).

  A `language_model` has rows of `input_shape` = (length,) tokens out of `num_outputs`. Nine times of ten, the same
  token follows a token; otherwise any one.
  """

  name: Static[Literal["synthetic"]] = "synthetic"
  kind: Static[Literal["classification", "regression", "language_model"]] = "classification"
  input_shape: Static[tuple[PositiveInt, ...]] = Field(default=(32, 32, 3), min_length=1)
  input_dtype: Static[Literal["float32", "uint8"]] = "float32"
  """uint8 inputs are round(128 + 32 x), clipped: images as a decoder gives them."""
  num_outputs: Static[int] = Field(default=10, ge=1)
  """Number of classes, of targets, or of tokens."""
  train_examples: Static[int] = Field(default=10_000, ge=1)
  validation_examples: Static[int] = Field(default=1_000, ge=1)
  test_examples: Static[int] = Field(default=1_000, ge=1)
  seed: Static[int] = Field(default=0, ge=0)
  """Seed of the teacher and the examples; the run's own seed changes only their order and augmentation."""
  augmentation: Augmentation | None = None

  def declared(self) -> source.Info:
    """Return the facts without making the examples; the normalization of bytes is the one that they are made by."""
    tokens, targets = self.kind == "language_model", self.kind == "regression"
    channels = self.input_shape[-1]
    bytes_ = (128.0,) * channels, (32.0,) * channels
    return source.Info(
      name="synthetic",
      input_shape=self.input_shape,
      input_dtype="int32" if tokens else self.input_dtype,
      num_classes=None if targets else self.num_outputs,
      num_targets=self.num_outputs if targets else None,
      examples=dict(zip(source.SPLITS, self._counts, strict=True)),
      normalization=bytes_ if self.input_dtype == "uint8" and not tokens else None,
      notice=self._notice,
      label_shape=self.input_shape if tokens else (),
    )

  @property
  def _counts(self) -> tuple[int, int, int]:
    return self.train_examples, self.validation_examples, self.test_examples

  @property
  def _notice(self) -> str:
    return f"SYNTHETIC DATA (teacher seed {self.seed}): results say nothing about any real task"

  def read(self) -> source.Source:
    """Make the examples; this costs a few ns per number. Raise `DataError` if tokens have no length alone."""
    generator = np.random.default_rng(self.seed)
    if self.kind == "language_model":
      return self._texts(generator)
    projection = generator.standard_normal((_LATENTS, int(np.prod(self.input_shape))), np.float32) / np.sqrt(
      np.float32(_LATENTS)
    )
    teacher = generator.standard_normal((_LATENTS, self.num_outputs), np.float32) / np.sqrt(np.float32(_LATENTS))
    inputs, outputs = {}, {}
    for split, count in zip(source.SPLITS, self._counts, strict=True):
      latents = generator.standard_normal((count, _LATENTS), np.float32)
      inputs[split] = self._project(latents, projection)
      outputs[split] = latents @ teacher
    if self.kind == "regression":
      return source.regression("synthetic", inputs, outputs, self._notice)
    labels = {split: output.argmax(axis=1) for split, output in outputs.items()}
    return source.classification("synthetic", inputs, labels, self.num_outputs, self._notice)

  def _texts(self, generator: np.random.Generator) -> source.Source:
    if len(self.input_shape) != 1:
      raise DataError(
        f"dataset synthetic: a language model needs dataset.input_shape = (length,), not {self.input_shape}"
      )
    follower = generator.permutation(self.num_outputs).astype(np.int32)
    splits = {}
    for split, count in zip(source.SPLITS, self._counts, strict=True):
      text = generator.integers(self.num_outputs, size=(count, self.input_shape[0] + 1), dtype=np.int32)
      follows = generator.random(text.shape) < _FOLLOWS
      for place in range(1, text.shape[1]):
        text[:, place] = np.where(follows[:, place], follower[text[:, place - 1]], text[:, place])
      splits[split] = source.Arrays({"inputs": text[:, :-1].copy(), "labels": text[:, 1:].copy()})
    return source.Source(info=self.declared(), splits=splits)

  def _project(self, latents: np.ndarray, projection: np.ndarray) -> np.ndarray:
    inputs = np.empty((len(latents), projection.shape[1]), self.input_dtype)
    rows = max(1, _BYTES_PER_CHUNK // projection[0].nbytes)
    for start in range(0, len(latents), rows):
      chunk = latents[start : start + rows] @ projection
      inputs[start : start + rows] = (
        np.clip(np.rint(128 + 32 * chunk), 0, 255) if self.input_dtype == "uint8" else chunk
      )
    return inputs.reshape(-1, *self.input_shape)

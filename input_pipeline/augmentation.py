"""Random changes to training examples, each a pure function of (seed, global position).

A global position counts examples over all epochs and hosts, so that no two drawings of an example share it.
A new augmentation of images is a field of `Augmentation`, a function like `_crop`, and a line in `augment`; it
draws from a stream of its own name, so that it leaves the draws of the others as they are.
"""

import numpy as np
from pydantic import Field

from trialbook.input_pipeline import hashing
from trialbook.input_pipeline.source import Batch
from trialbook.settings import Settings, Traced

_ERASED_AREA = (0.02, 0.33)
_ERASED_ASPECT = (0.3, 3.3)


class Augmentation(Settings):
  """Random changes to training examples. A strength of zero changes nothing, exactly."""

  crop_padding: Traced[int] = Field(default=0, ge=0)
  """Zero pixels put around the image before a window of the original size is cut out at random."""
  flip_probability: Traced[float] = Field(default=0.0, ge=0.0, le=1.0)
  """Probability that an image is mirrored left to right."""
  erasing_probability: Traced[float] = Field(default=0.0, ge=0.0, le=1.0)
  """Probability that a random rectangle (2 to 33 % of the area, sides 0.3 to 3.3 as one to the other) is set to zero.

  Zhong, Zheng, Kang, Li and Yang, "Random erasing data augmentation", 2020; there, it is filled with noise.
  """
  mixup_alpha: Traced[float | None] = Field(default=None, ge=0.0)
  """Each example x becomes a*x + (1-a)*y, with y the other of its pair and a from Beta(alpha, alpha); None: no mixup.

  The batch then has "mixing" (a), "labels" (x's) and "mixed_labels" (y's); the loss is the mean of that with the one
  and with the other, weighted by a and 1-a. Real-valued targets are mixed themselves. Bytes are rounded.
  Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: beyond empirical risk minimization", 2018.
  """

  @property
  def changes_images(self) -> bool:
    """Return whether there is something to do that only images allow."""
    return bool(self.crop_padding or self.flip_probability or self.erasing_probability)


def augment(images: np.ndarray, config: Augmentation, seed: int, positions: np.ndarray) -> np.ndarray:
  """Return the augmented images, of the same shape and dtype; `images` itself is not written to.

  Args:
    images: [n, height, width, channels].
    config: how strongly to augment.
    seed: the run's seed.
    positions: int64 [n], the global position of each image.
  """
  counter = positions.astype(np.uint64)
  if config.crop_padding > 0:
    images = _crop(images, config.crop_padding, seed, counter)
  if config.flip_probability > 0:
    images = _flip(images, config.flip_probability, seed, counter)
  if config.erasing_probability > 0:
    images = _erase(images, config.erasing_probability, seed, counter)
  return images


def mix(batch: Batch, alpha: float, seed: int, positions: np.ndarray) -> Batch:
  """Return the batch with each example mixed with its neighbour: 0 with 1, 2 with 3 and so on; see `mixup_alpha`.

  Args:
    batch: of an even number of examples.
    alpha: of the Beta distribution; 0 keeps every example as it is.
    seed: the run's seed.
    positions: int64 [n], the global position of each example.
  """
  mixing = np.ones(len(positions), np.float32)
  if alpha > 0:
    # Only here, since importing it takes longer than reading a small dataset.
    from scipy.special import betaincinv

    drawn = hashing.uniform(hashing.bits(hashing.stream_key(seed, "mixup"), positions.astype(np.uint64)))
    mixing = betaincinv(alpha, alpha, drawn).astype(np.float32)
  neighbour = np.arange(len(positions)) ^ 1

  def blend(values: np.ndarray) -> np.ndarray:
    weight = mixing.reshape(-1, *[1] * (values.ndim - 1))
    blended = weight * values + (1 - weight) * values[neighbour]
    return (np.rint(blended) if values.dtype == np.uint8 else blended).astype(values.dtype)

  mixed = {**batch, "inputs": blend(batch["inputs"])}
  if "targets" in batch:
    mixed["targets"] = blend(batch["targets"])
  if "labels" in batch:
    mixed |= {"mixed_labels": batch["labels"][neighbour], "mixing": mixing}
  return mixed


def _crop(images: np.ndarray, padding: int, seed: int, counter: np.ndarray) -> np.ndarray:
  n, height, width, channels = images.shape
  padded = np.zeros((n, height + 2 * padding, width + 2 * padding, channels), images.dtype)
  padded[:, padding : padding + height, padding : padding + width] = images
  offsets = 2 * padding + 1
  top = hashing.below(offsets, hashing.bits(hashing.stream_key(seed, "crop_top"), counter))
  left = hashing.below(offsets, hashing.bits(hashing.stream_key(seed, "crop_left"), counter))
  # A view of every window of every image; only the chosen ones are ever copied.
  windows = np.lib.stride_tricks.as_strided(
    padded,
    (n, offsets, offsets, height, width, channels),
    (*padded.strides[:3], *padded.strides[1:]),
    writeable=False,
  )
  return windows[np.arange(n), top.astype(np.intp), left.astype(np.intp)]


def _flip(images: np.ndarray, probability: float, seed: int, counter: np.ndarray) -> np.ndarray:
  drawn = hashing.uniform(hashing.bits(hashing.stream_key(seed, "flip"), counter))
  flipped = np.flatnonzero(drawn < probability)
  images = images.copy()
  images[flipped] = images[flipped, :, ::-1]
  return images


def _erase(images: np.ndarray, probability: float, seed: int, counter: np.ndarray) -> np.ndarray:
  def draw(stream: str) -> np.ndarray:
    return hashing.uniform(hashing.bits(hashing.stream_key(seed, stream), counter))

  _, height, width, _ = images.shape
  low, high = _ERASED_AREA
  area = (low + (high - low) * draw("erase_area")) * height * width
  low, high = np.log(_ERASED_ASPECT)
  aspect = np.exp(low + (high - low) * draw("erase_aspect"))
  rows = np.clip(np.rint(np.sqrt(area * aspect)), 1, height).astype(np.int64)
  columns = np.clip(np.rint(np.sqrt(area / aspect)), 1, width).astype(np.int64)
  top = (draw("erase_top") * (height - rows + 1)).astype(np.int64)
  left = (draw("erase_left") * (width - columns + 1)).astype(np.int64)
  in_rows = (np.arange(height) >= top[:, None]) & (np.arange(height) < (top + rows)[:, None])
  in_columns = (np.arange(width) >= left[:, None]) & (np.arange(width) < (left + columns)[:, None])
  erased = in_rows[:, :, None] & in_columns[:, None, :] & (draw("erase") < probability)[:, None, None]
  return np.where(erased[..., None], np.zeros((), images.dtype), images)

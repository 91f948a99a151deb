"""Random changes to training images, each a pure function of (seed, global position).

A global position counts examples over all epochs and hosts, so that no two drawings of an example share it.
A new augmentation is a field of `Augmentation`, a function like `_crop`, and a line in `augment`; it draws
from a stream of its own name, so that it leaves the draws of the others as they are.
"""

import numpy as np
from pydantic import Field

from input_pipeline import hashing
from trialbook.settings import Settings, Traced


class Augmentation(Settings):
  """Random crop and horizontal flip of training images. A strength of zero changes nothing, exactly."""

  crop_padding: Traced[int] = Field(default=0, ge=0)
  """Zero pixels put around the image before a window of the original size is cut out at random."""
  flip_probability: Traced[float] = Field(default=0.0, ge=0.0, le=1.0)
  """How likely an image is mirrored left to right."""


def augment(images: np.ndarray, config: Augmentation, seed: int, positions: np.ndarray) -> np.ndarray:
  """The augmented images, of the same shape and dtype; `images` itself is not written to.

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
  return images


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

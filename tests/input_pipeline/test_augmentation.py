"""Augmentation equals a loop over examples, depends on (seed, position) only, and is exact at zero."""

import zlib

import numpy as np
import pytest
from pydantic import ValidationError

from input_pipeline import Augmentation
from input_pipeline.augmentation import augment

_MASK = 2**64 - 1


def _bits(key: int, counter: int) -> int:
  z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & _MASK
  z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
  z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
  return z ^ (z >> 31)


def _augment_one(image: np.ndarray, padding: int, probability: float, seed: int, position: int) -> np.ndarray:
  """The definition, in Python integers: pad, cut out, then flip."""

  def draw(stream: str) -> int:
    return _bits(_bits(_bits(seed, 0), zlib.crc32(stream.encode())), position)

  height, width, _ = image.shape
  padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
  top = (draw("crop_top") >> 32) * (2 * padding + 1) >> 32
  left = (draw("crop_left") >> 32) * (2 * padding + 1) >> 32
  image = padded[top : top + height, left : left + width]
  return image[:, ::-1] if (draw("flip") >> 11) / 2**53 < probability else image


def _images(n: int, shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
  return np.random.default_rng(0).integers(1, 256, (n, *shape)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
  ("shape", "padding", "probability"), [((5, 7, 1), 2, 0.5), ((6, 4, 3), 0, 0.3), ((4, 4, 2), 5, 0.0)]
)
def test_it_equals_a_loop_over_the_examples(shape, padding, probability, dtype):
  images = _images(40, shape, dtype)
  positions = 10**13 + 3 * np.arange(40)
  config = Augmentation(crop_padding=padding, flip_probability=probability)
  got = augment(images, config, 11, positions)
  expected = [
    _augment_one(image, padding, probability, 11, int(position))
    for image, position in zip(images, positions, strict=True)
  ]
  assert got.dtype == images.dtype
  assert np.array_equal(got, np.stack(expected))


def test_strength_zero_changes_nothing():
  images = _images(20, (6, 6, 3))
  assert np.array_equal(augment(images, Augmentation(), 0, np.arange(20)), images)


def test_probability_one_flips_every_image():
  images = _images(20, (6, 6, 3))
  assert np.array_equal(augment(images, Augmentation(flip_probability=1.0), 0, np.arange(20)), images[:, :, ::-1])


def test_an_example_is_augmented_alike_in_any_company():
  images = _images(30, (6, 6, 1))
  config = Augmentation(crop_padding=2, flip_probability=0.5)
  together = augment(images, config, 3, np.arange(30))
  alone = augment(images[17:18], config, 3, np.array([17]))
  assert np.array_equal(together[17:18], alone)


def test_offsets_and_flips_are_evenly_distributed():
  n = 9_000
  images = np.zeros((n, 3, 3, 1), np.uint8)
  images[:, 1, 1] = 1
  cropped = augment(images, Augmentation(crop_padding=1), 0, np.arange(n))
  places = np.bincount(cropped.reshape(n, 9).argmax(axis=1), minlength=9)
  assert abs(places - n / 9).max() < 5 * np.sqrt(n / 9)
  ramp = np.broadcast_to(np.arange(3, dtype=np.uint8)[None, None, :, None], (n, 3, 3, 1))
  flipped = (augment(ramp, Augmentation(flip_probability=0.3), 0, np.arange(n))[:, 0, 0, 0] == 2).mean()
  assert abs(flipped - 0.3) < 0.025


def test_the_input_images_are_not_written_to():
  images = _images(10, (6, 6, 1))
  images.setflags(write=False)
  augment(images, Augmentation(crop_padding=2, flip_probability=1.0), 0, np.arange(10))


@pytest.mark.parametrize("values", [{"crop_padding": -1}, {"flip_probability": 1.5}, {"flip_probability": -0.1}])
def test_impossible_strengths_are_refused(values):
  with pytest.raises(ValidationError):
    Augmentation(**values)

"""Augmentation equals a loop over examples, depends on (seed, position) only, and is exact at zero."""

import zlib
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from trialbook.input_pipeline import Augmentation, Digits, load
from trialbook.input_pipeline.augmentation import augment, mix

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


@pytest.mark.parametrize(
  "values", [{"crop_padding": -1}, {"flip_probability": 1.5}, {"erasing_probability": -0.1}, {"mixup_alpha": -1.0}]
)
def test_impossible_strengths_are_refused(values):
  with pytest.raises(ValidationError):
    Augmentation(**values)


def test_an_erased_rectangle_is_zero_and_the_rest_is_as_it_was():
  n, height, width = 400, 16, 12
  images = _images(n, (height, width, 2))
  erased = augment(images, Augmentation(erasing_probability=0.5), 3, np.arange(n))
  assert erased.dtype == images.dtype
  changed = (erased != images).any(axis=-1)
  assert not erased[changed].any()
  assert 0.4 < changed.any(axis=(1, 2)).mean() < 0.6
  for mask in changed[changed.any(axis=(1, 2))]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert mask.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    assert 1 <= mask.sum() <= 0.33 * height * width + height
  # Everywhere in the image, the middle more often.
  assert (changed.mean(axis=0) > 0).all()


def test_erasing_depends_on_seed_and_position_only():
  images, config = _images(30, (8, 8, 1)), Augmentation(erasing_probability=1.0)
  together = augment(images, config, 3, np.arange(30))
  assert np.array_equal(augment(images[17:18], config, 3, np.array([17])), together[17:18])
  assert not np.array_equal(augment(images, config, 4, np.arange(30)), together)
  everywhere = augment(np.ones((2000, 8, 8, 1), np.float32), config, 0, np.arange(2000))
  assert 0.1 < (everywhere == 0).mean() < 0.25


def _mixed(alpha: float | None, seed: int = 1, batch_size: int = 12, **hosts: Any):
  augmentation = Augmentation(crop_padding=1, flip_probability=0.5, mixup_alpha=alpha)
  return load(Digits(augmentation=augmentation), seed=seed, batch_size=batch_size, **hosts)


@pytest.mark.parametrize("step", [0, 5, 108, 10**9])
def test_mixup_is_the_weighted_mean_of_the_two_of_a_pair_and_their_labels_are_both_given(step):
  plain, mixed = _mixed(None).train_batch(step), _mixed(0.3).train_batch(step)
  assert (_mixed(None).info.mixes_labels, _mixed(0.3).info.mixes_labels) == (False, True)
  assert {key: (value.shape, str(value.dtype)) for key, value in mixed.items()} == {
    "inputs": ((12, 8, 8, 1), "uint8"),
    "labels": ((12,), "int32"),
    "mixed_labels": ((12,), "int32"),
    "mixing": ((12,), "float32"),
  }
  pair = np.arange(12) ^ 1
  weight = mixed["mixing"].astype(np.float64)[:, None, None, None]
  expected = np.rint(weight * plain["inputs"] + (1 - weight) * plain["inputs"][pair])
  assert abs(mixed["inputs"] - expected).max() <= 1
  assert (mixed["inputs"] != expected).mean() < 0.001
  assert np.array_equal(mixed["labels"], plain["labels"])
  assert np.array_equal(mixed["mixed_labels"], plain["labels"][pair])


@pytest.mark.parametrize(("batch_size", "host_count"), [(12, 4), (12, 2), (12, 12), (15, 5), (9, 3)])
def test_mixup_is_the_same_on_any_number_of_hosts_also_where_a_border_cuts_a_pair(batch_size, host_count):
  single = _mixed(0.3, batch_size=batch_size)
  hosts = [_mixed(0.3, batch_size=batch_size, host_index=i, host_count=host_count) for i in range(host_count)]
  for step in (0, 1, 86, 108):
    slices = [host.train_batch(step) for host in hosts]
    for key, value in single.train_batch(step).items():
      assert np.array_equal(np.concatenate([one[key] for one in slices]), value)


def test_mixup_of_strength_zero_changes_nothing_but_has_the_same_shapes():
  plain, zero, some = (_mixed(alpha).train_batch(3) for alpha in (None, 0.0, 0.3))
  assert np.array_equal(zero["inputs"], plain["inputs"])
  assert np.array_equal(zero["labels"], plain["labels"])
  assert (zero["mixing"] == 1).all()
  shapes = [{key: (value.shape, value.dtype) for key, value in batch.items()} for batch in (zero, some)]
  assert shapes[0] == shapes[1]
  floats = {"inputs": np.random.default_rng(0).standard_normal((6, 3), np.float32), "labels": np.arange(6)}
  assert np.array_equal(mix(floats, Augmentation(mixup_alpha=0.0), 0, np.arange(6))["inputs"], floats["inputs"])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_of_mixup_are_beta_distributed(alpha):
  from scipy import stats

  n = 20_000
  weights = mix(
    {"inputs": np.zeros((n, 1), np.float32), "labels": np.zeros(n)}, Augmentation(mixup_alpha=alpha), 0, np.arange(n)
  )["mixing"]
  assert ((weights >= 0) & (weights <= 1)).all()
  # Not at the ends: with alpha = 0.2, a weight within 3e-8 of 1, which float32 rounds to 1, has probability 0.016.
  grid = np.linspace(0.001, 0.999, 200)
  drawn = np.searchsorted(np.sort(weights), grid) / n
  assert abs(drawn - stats.beta(alpha, alpha).cdf(grid)).max() < 0.015


def test_mixup_is_not_applied_to_evaluation_batches():
  assert _mixed(0.3).eval_batch(0, "train", 8).keys() == {"inputs", "labels", "is_example", "example"}

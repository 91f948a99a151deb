"""The order of an epoch is a bijection, evenly random, and another one in each epoch and for each seed."""

import math

import numpy as np
import pytest
from scipy import stats

from trialbook.input_pipeline import hashing
from trialbook.input_pipeline.permutation import permute

_MASK = 2**64 - 1


def _reference_bits(key: int, counter: int) -> int:
  """splitmix64 from its published definition, in unbounded integers."""
  z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & _MASK
  z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
  z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
  return z ^ (z >> 31)


def _keys(count: int) -> np.ndarray:
  return hashing.bits(hashing.stream_key(0, "test"), np.arange(count, dtype=np.uint64))


def test_bits_are_those_of_splitmix64():
  # The first outputs for state 1234567, as published with the generator.
  published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
  counters = np.arange(4, dtype=np.uint64)
  assert hashing.bits(np.array([1234567], np.uint64), counters).tolist() == published
  for key, counter in [(0, 0), (_MASK, _MASK - 1), (17, 10**14)]:
    got = hashing.bits(np.array([key], np.uint64), np.array([counter], np.uint64))
    assert got.tolist() == [_reference_bits(key, counter)]


def test_streams_and_seeds_have_different_keys():
  keys = {hashing.stream_key(seed, name).item() for seed in range(100) for name in ("order", "flip", "crop_top")}
  assert len(keys) == 300


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 100, 101, 1297, 4096, 55_000])
def test_every_index_is_reached_exactly_once(size):
  for key in _keys(3):
    image = permute(np.arange(size), size, np.array([key]))
    assert np.array_equal(np.sort(image), np.arange(size))


def test_a_part_of_the_domain_in_any_order_gives_the_same_images():
  whole = permute(np.arange(1297), 1297, _keys(1))
  chosen = np.random.default_rng(0).permutation(1297)[:50]
  assert np.array_equal(permute(chosen, 1297, _keys(1)), whole[chosen])


def test_each_entry_may_have_its_own_key():
  keys = _keys(20)
  together = permute(np.full(20, 7), 11, keys)
  assert together.tolist() == [permute(np.array([7]), 11, key[None])[0] for key in keys]


def test_sizes_far_beyond_memory_work():
  size = 10**15 + 7
  image = permute(np.arange(1000), size, _keys(1))
  assert len(np.unique(image)) == 1000
  assert stats.kstest(image / size, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_permutations_of_a_tiny_set_are_equally_likely(size):
  count = 300 * math.factorial(size)
  keys = np.repeat(_keys(count), size)
  images = permute(np.tile(np.arange(size), count), size, keys).reshape(count, size)
  codes = images @ size ** np.arange(size)
  _, observed = np.unique(codes, return_counts=True)
  assert len(observed) == math.factorial(size)
  assert stats.chisquare(observed).pvalue > 1e-3


def test_a_place_gets_every_example_equally_often_over_epochs():
  size, epochs = 50, 20_000
  image = permute(np.full(epochs, 13), size, _keys(epochs))
  assert stats.chisquare(np.bincount(image, minlength=size)).pvalue > 1e-3


def test_neighbouring_places_and_successive_epochs_are_independent():
  size, epochs = 10, 20_000
  first = permute(np.full(epochs, 3), size, _keys(epochs))
  second = permute(np.full(epochs, 4), size, _keys(epochs))
  # Two places of one epoch never agree; the other pairs are equally likely.
  neighbours = np.bincount(first * size + second, minlength=size * size).reshape(size, size)
  assert (np.diag(neighbours) == 0).all()
  assert stats.chisquare(neighbours[~np.eye(size, dtype=bool)]).pvalue > 1e-3
  epochs_pair = np.bincount(first[:-1] * size + first[1:], minlength=size * size)
  assert stats.chisquare(epochs_pair).pvalue > 1e-3


def test_below_and_uniform_cover_their_ranges_evenly():
  random_bits = hashing.bits(_keys(1), np.arange(20_000, dtype=np.uint64))
  assert stats.chisquare(np.bincount(hashing.below(9, random_bits).astype(int), minlength=9)).pvalue > 1e-3
  numbers = hashing.uniform(random_bits)
  assert numbers.min() >= 0
  assert numbers.max() < 1
  assert stats.kstest(numbers, "uniform").pvalue > 1e-3

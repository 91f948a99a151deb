import numpy as np
import pytest

from trialbook.tuning.reporting.thinning import thinned


def curve(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """A falling curve of so many points with noise, at steps of unequal distance."""
  rng = np.random.default_rng(seed)
  steps = np.cumsum(rng.integers(1, 50, count))
  return steps, np.exp(-np.linspace(0, 3, count)) + rng.normal(0, 0.02, count)


@pytest.mark.parametrize("count", [0, 1, 2, 29, 30])
def test_a_curve_that_is_short_enough_stays_as_it_is(count):
  steps, values = curve(0, count)
  kept, kept_values = thinned(steps, values, 30)
  np.testing.assert_array_equal(kept, steps)
  np.testing.assert_array_equal(kept_values, values)


@pytest.mark.parametrize("limit", [4, 5, 30, 31, 100])
@pytest.mark.parametrize("count", [32, 101, 1000])
def test_at_most_the_limit_is_kept_of_what_was_there_in_order(limit, count):
  steps, values = curve(limit + count, count)
  kept, kept_values = thinned(steps, values, limit)
  assert min(count, limit) / 2 <= len(kept) <= limit
  assert len(kept_values) == len(kept)
  assert (np.diff(kept) > 0).all()
  known = dict(zip(steps.tolist(), values.tolist(), strict=True))
  assert all(known[step] == value for step, value in zip(kept.tolist(), kept_values.tolist(), strict=True))


@pytest.mark.parametrize("limit", [4, 31, 100])
def test_the_ends_and_the_lowest_and_highest_of_every_stretch_are_kept(limit):
  steps, values = curve(limit, 1000)
  kept = set(thinned(steps, values, limit)[0].tolist())
  assert {steps[0], steps[-1], steps[values.argmin()], steps[values.argmax()]} <= kept
  # Any run of points that is as long as two stretches holds a whole one, whose extremes were kept.
  longest = 2 * -(-998 // ((limit - 2) // 2))
  for start in range(1, 999 - longest, 7):
    assert sum(step in kept for step in steps[start : start + longest].tolist()) >= 2


def test_a_single_spike_is_kept_wherever_it_is():
  steps = np.arange(500)
  for place in range(500):
    for sign in (-1.0, 1.0):
      values = np.zeros(500)
      values[place] = sign
      kept, kept_values = thinned(steps, values, 30)
      assert sign in kept_values
      assert place in kept


def test_a_constant_curve_keeps_its_ends():
  kept, values = thinned(np.arange(100), np.ones(100), 10)
  assert (kept[0], kept[-1]) == (0, 99)
  assert set(values) == {1.0}

"""The closed form of the best of k draws, against drawing them."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats

from trialbook.tuning.findings.statistics.best_of_k import MOST_BOXES, QUANTILES, best_of_k, of_k, thinned

VALUES = np.random.default_rng(3).gamma(2.0, 0.05, 17)


def quantiles(one) -> list[Any]:
  return [one.p5, one.p25, one.median, one.p75, one.p95]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("infeasible", [0, 6])
def test_quantiles_are_those_of_drawn_samples(sign, infeasible):
  rng = np.random.default_rng(0)
  # The worst that there is stands for nothing.
  population = np.concatenate([VALUES, np.full(infeasible, sign * np.inf)])
  for one in best_of_k(VALUES.tolist(), sign, infeasible)[::4]:
    draws = sign * (sign * rng.choice(population, (100_000, one.k))).min(axis=1)
    for asked, found in zip(QUANTILES, quantiles(one), strict=True):
      value = sign * np.inf if found is None else found
      # The share of draws up to the value reaches the quantile, and without it does not: within 5 standard errors.
      slack = 5 * np.sqrt(asked * (1 - asked) / len(draws))
      assert np.mean(draws <= value) >= asked - slack
      assert np.mean(draws < value) <= asked + slack
    assert one.nothing == pytest.approx(np.mean(np.isinf(draws)), abs=0.01)


def test_the_median_is_that_of_the_distribution_of_a_minimum():
  # Of many uniform values, the minimum of k has the distribution Beta(1, k).
  many = (np.arange(20_000) + 0.5) / 20_000
  for k in (1, 3, 10):
    expected = scipy.stats.beta(1, k).ppf(QUANTILES)
    np.testing.assert_allclose(quantiles(of_k(many.tolist(), 1, k)), expected, atol=1e-4)


def test_a_maximum_mirrors_a_minimum():
  low, high = best_of_k(VALUES.tolist(), 1), best_of_k((-VALUES).tolist(), -1)
  for one, other in zip(low, high, strict=True):
    np.testing.assert_allclose(quantiles(one), [-value for value in reversed(quantiles(other))])


def test_one_draw_has_the_quartiles_of_the_values_and_more_draws_are_never_worse():
  found = best_of_k(VALUES.tolist(), 1)
  assert [one.k for one in found] == list(range(1, 18))
  np.testing.assert_allclose(quantiles(found[0]), np.quantile(VALUES, QUANTILES, method="inverted_cdf"))
  for earlier, later in itertools.pairwise(found):
    assert all(b <= a for a, b in zip(quantiles(earlier), quantiles(later), strict=True))


def test_where_few_are_feasible_bad_draws_give_nothing():
  found = best_of_k([0.1, 0.2], 1, infeasible=8)
  assert (found[0].p5, found[0].median, found[0].nothing) == (0.1, None, pytest.approx(0.8))
  assert len(found) == 10
  assert found[-1].median == 0.1
  assert best_of_k([], 1, infeasible=8) == []


def test_many_trials_have_few_boxes_with_the_first_and_the_last():
  for total in (61, 100, 1000):
    chosen = thinned(total)
    assert (chosen[0], chosen[-1]) == (1, total)
    assert len(chosen) <= MOST_BOXES
    assert chosen == sorted(set(chosen))

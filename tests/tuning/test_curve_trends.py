"""Lines through curves, the correlation of their noise, and the intervals of shares hold as often as they say."""

import numpy as np
import pytest
from curve_studies import normal_noise

from trialbook.tuning.findings.statistics.curve_trends import (
  correlation,
  effective_trials,
  noise_correlation,
  rise_after_best,
  share_interval,
  trend,
)


def test_a_line_is_that_of_least_squares_and_its_error_too():
  rng = np.random.default_rng(0)
  steps = np.sort(rng.choice(10_000, 40, replace=False))
  values = 0.3 + 2e-5 * steps + rng.uniform(-0.01, 0.01, 40)
  design = np.stack([np.ones(40), steps], axis=1)
  solved, squares, *_ = np.linalg.lstsq(design, values, rcond=None)
  error = np.sqrt(squares[0] / 38 * np.linalg.inv(design.T @ design)[1, 1])
  line = trend(steps, values)
  assert line is not None
  length = steps[-1] - steps[0]
  np.testing.assert_allclose(line.change, solved[1] * length, rtol=1e-9)
  np.testing.assert_allclose(line.error, error * length, rtol=1e-9)
  spiked = trend(steps, values + np.where(np.arange(40) == 20, 5.0, 0.0))
  assert spiked is not None
  assert abs(spiked.change - line.change) < 3 * line.error


def test_intervals_of_a_line_hold_for_autocorrelated_noise():
  inside = 0
  for seed in range(300):
    rng = np.random.default_rng(seed)
    curves = []
    for _ in range(10):
      noise = rng.normal(0, 1, 50)
      for position in range(1, 50):
        noise[position] = 0.5 * noise[position - 1] + np.sqrt(0.75) * noise[position]
      curves.append((np.arange(50), noise + 0.02 * np.arange(50)))
    steps, noisy = curves[0]
    line = trend(steps, noisy, correlation(curves))
    assert line is not None
    inside += abs(line.change - 0.98) < line.half_width
  assert 0.91 <= inside / 300 <= 0.99


def test_a_flat_curve_does_not_seem_to_rise_after_its_best():
  ps = [rise.p for seed in range(400) if (rise := rise_after_best(np.arange(50), normal_noise(seed))) is not None]
  assert np.mean(np.array(ps) < 0.05) < 0.08


def test_the_interval_of_a_share_is_that_of_clopper_and_pearson():
  # Table values: 8 of 10, and no success in 10.
  np.testing.assert_allclose(share_interval(8, 10), (0.44390, 0.97479), atol=1e-5)
  np.testing.assert_allclose(share_interval(0, 10), (0, 0.30850), atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_what_the_noise_of_trials_has_in_common_is_measured(share):
  rng = np.random.default_rng(10_000)
  noise = np.sqrt(share) * rng.normal(size=60) + np.sqrt(1 - share) * rng.normal(size=(40, 60))
  assert abs(noise_correlation(noise, 3) - share) < 0.15
  np.testing.assert_allclose([effective_trials(8, 0.0), effective_trials(8, 1.0), effective_trials(1, 0.5)], [8, 1, 1])
  assert noise_correlation(np.zeros((5, 60)), 3) == 0

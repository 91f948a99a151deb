"""The length of a whole training is told from logs, whatever sets it and whatever ended the others."""

import numpy as np
import pytest

from trialbook.tuning import Minimize
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.training_lengths import training_length, usual_length

OBJECTIVE = Minimize("validation/error")


def endings(lengths, values, whole=None):
  """Return how trials ended whose errors fall all along, each to a value of its own."""
  trials = []
  for number, (steps, each) in enumerate(zip(lengths, values, strict=True)):
    full = steps if whole is None else whole[number]
    at = np.linspace(0, full, 51).round()
    curve = 0.1 + 0.002 * ((7 * number) % len(lengths)) + 0.8 * np.exp(-4 * at / full)
    trials.append(planted.trial(number, each, {OBJECTIVE.metric: (at[at <= steps], curve[at <= steps])}))
  return [end.kind for end in planted.results(trials, planted.SPACE, OBJECTIVE).endings.values()]


@pytest.mark.parametrize(
  ("lengths", "steps", "is_usual"),
  [
    ([], 0, False),
    ([1000] * 6 + [300, 400], 1000, True),
    ([1000] * 3 + [100] * 12, 1000, True),  # A rule ended most.
    ([100] * 18 + [300] * 8 + [1000] * 3, 1000, False),  # Successive halving.
    ([1000] * 9 + [1500], 1000, True),  # One was trained longer.
    ([310, 420, 430, 560, 700, 810, 990], 990, False),
  ],
)
def test_the_longest_count_and_not_the_most(lengths, steps, is_usual):
  found = usual_length(lengths)
  assert (found.steps, found.is_usual) == (steps, is_usual)


SIZES = [32, 64, 128, 256]


@pytest.mark.parametrize(
  ("name", "of", "lengths"),
  [
    ("num_epochs", [10, 20, 40, 80], [1000, 2000, 4000, 8000]),
    ("rounds", [10, 20, 40, 80], [1000, 2000, 4000, 8000]),
    ("batch_size", SIZES, [8000, 4000, 2000, 1000]),
    ("per_device_batch", SIZES, [8012, 4003, 1999, 1010]),
    ("data", ["small", "large", "small", "large"], [1000, 3000, 1000, 3000]),
  ],
)
def test_a_hyperparameter_of_any_name_may_set_the_length(name, of, lengths):
  number = 16
  values = [{name: of[n % 4], "learning_rate": 0.001 * (n + 1)} for n in range(number)]
  whole = [lengths[n % 4] for n in range(number)]
  found = training_length(whole, values)
  assert found.is_usual
  for own, length in zip(values, whole, strict=True):
    assert found.of(own) == pytest.approx(length, rel=0.05)
  assert set(endings(whole, values)) == {"finished"}
  # One that ends long before the others of its value was cut short.
  cut = [*whole]
  cut[6] = whole[6] // 3
  kinds = endings(cut, values, whole)
  assert kinds[6] == "cut_short"
  assert kinds.count("finished") == number - 1


def test_an_unrelated_hyperparameter_explains_no_interruptions():
  rng = np.random.default_rng(0)
  for _ in range(20):
    lengths = [int(1000 * share) for share in rng.uniform(0.2, 1, 12)] + [1000] * 12
    values = [{"learning_rate": float(10 ** rng.uniform(-4, 0)), "batch_size": int(rng.choice(SIZES))} for _ in lengths]
    assert training_length(lengths, values).of(values[0]) == 1000

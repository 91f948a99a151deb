"""Fewer points of a curve, such that what a reader looks for is still there."""

import numpy as np


def thinned(steps: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
  """Return at most `limit` points of a curve: the first, the last, and the lowest and highest of equal stretches of it.

  No value is made up, none is averaged: a single spike, and the best evaluation, are among what is kept.

  Args:
    steps: [points], in order.
    values: [points].
    limit: 4 or more.

  Returns:
    Steps and values, [at most `limit`] each.
  """
  count = len(steps)
  if count <= limit:
    return steps, values
  stretches = np.array_split(np.arange(1, count - 1), (limit - 2) // 2)
  kept = {0, count - 1}
  for stretch in stretches:
    kept |= {int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])}
  chosen = np.array(sorted(kept))
  return steps[chosen], values[chosen]

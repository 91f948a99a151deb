"""Whether a training was stable, and where it broke if not: by its training loss at every step (PB-80).

The playbook ("Identifying unstable workloads"): instability shows in a loss that "goes up not down during periods of
training", in NaN, and in "uncharacteristically high values of the loss". A single bad step is none of these: the
gradient norms show it (PB-81).
"""

import dataclasses
from typing import Literal

import numpy as np
from scipy import ndimage

from trialbook.tuning.results import Trial

LOSS, NORM, CLIPPED = "train/loss", "grad_norm", "clip_fraction"
"""Metrics that every step logs."""
WINDOW = 5
"""Steps of the running median that is looked at: a rise lasts for three steps at least, so one bad batch is none."""
RISE = 0.25
"""Share of all that training gains by which the loss rises if it is unstable: the first steps of stable trainings of
small networks, at their best learning rate, rise by up to 0.08 of it."""
SHARED = 2.0
"""Multiple of the reference's rise at the same step that a rise exceeds as well: what both have in common is due to the
examples of these batches, such as outliers among the targets."""
NOISE = 5.0
"""Robust standard deviations of the loss from step to step that a rise exceeds as well."""
NEIGHBOURS = 101
"""Steps around a step that tell the noise there: of fewer, the noise is known so badly that it is often too small."""
EARLY = 0.2
"""Share of a training in which an instability is early: warmup is at most half of it (PB-82)."""
BEHIND = 0.5
"""Share of what a stable training has gained by the same step that one has at least, if it is not broken: a collapsed
network has gained next to nothing."""
STOPPED = 0.05
"""Share of what training gains within which a loss is at its lowest: from there on it improves no more."""
END = 0.1
"""Share of the steps whose median is the loss at the end."""

Kind = Literal["stable", "early", "mid", "unknown"]


@dataclasses.dataclass(frozen=True)
class Behaviour:
  """How a training went.

  Attributes:
    kind: "stable"; "early" or "mid": unstable, by where that begins; "unknown": it did not run, or logged no loss.
    step: where the instability begins; None if there is none.
    recovered: whether the training went on to improve after it.
    text: in words, a clause with its subject.
  """

  kind: Kind
  step: int | None
  recovered: bool
  text: str

  @property
  def is_unstable(self) -> bool:
    """Return whether it was unstable."""
    return self.kind in ("early", "mid")


def behaviour(
  trial: Trial,
  length: int,
  reference: Trial | None = None,
  *,
  may_be_slow: bool = False,
  same_batches: bool = True,
) -> Behaviour:
  """Return how a training went.

  It is unstable if it diverged; if the running median of its loss rises by `RISE` of all that training gains, by
  `NOISE`, and by `SHARED` times as much as that of the reference at the same step; if it ends above where it began; or
  if it ends `BEHIND` the reference, as a network does that died.

  Args:
    trial: the training.
    length: of a whole training, in steps, of which the beginning is early.
    reference: a stable training, which says what training gains, how noisy it is, and how far it is at each step.
    may_be_slow: whether it may stay behind the reference without being broken, as with a smaller learning rate.
    same_batches: whether the reference had the same batches; if not, a rise that ends may be due to them, and is not
      looked at.
  """
  state, reason = trial.recorded
  if state not in ("complete", "infeasible") or (reason or "").startswith("refused"):
    return Behaviour("unknown", None, False, f"training did not run ({reason or state})")
  steps, values = trial.curve(LOSS)
  diverged = state == "infeasible"
  if len(values) < WINDOW:
    if diverged:
      return Behaviour("early", int(steps[-1]) if len(steps) else 0, False, f"training diverges ({reason})")
    return Behaviour("unknown", None, False, f"training logged no {LOSS}")
  own = _Curve.of(steps, values)
  other = own if reference is None or len(reference.curve(LOSS)[0]) < WINDOW else _Curve.of(*reference.curve(LOSS))
  gain = max(own.gain, other.gain)
  rise = _rise(own, other, gain) if same_batches else None
  behind = None if may_be_slow or reference is None else _behind(own, other, gain)
  if diverged:
    at = int(steps[-1]) if rise is None else rise[0]
    return Behaviour(_kind(at, length), at, False, f"training diverges ({reason})")
  if rise is not None:
    at, low, high = rise
    after = "" if behind is not None else ", and recovers" if own.end < low + RISE * gain else ""
    text = f"the loss rises from {low:.3g} at step {at:,} to {high:.3g}{after}"
    return Behaviour(_kind(at, length), at, bool(after), text)
  if behind is not None:
    text = f"the loss ends at {own.end:.3g}, where the best training has {other.near(own.steps[-1]):.3g}"
    return Behaviour(_kind(behind, length), behind, False, text)
  if own.end > own.start + NOISE * other.noise[0]:
    at = int(steps[0])
    return Behaviour("early", at, False, f"the loss ends at {own.end:.3g}, above {own.start:.3g} where it began")
  return Behaviour("stable", None, False, f"the loss falls from {own.start:.3g} to {own.end:.3g}")


def _kind(step: int, length: int) -> Literal["early", "mid"]:
  return "early" if step <= EARLY * length else "mid"


@dataclasses.dataclass(frozen=True)
class _Curve:
  """A loss: its steps, its running median, and its noise around that, [steps] each; its first value and its end."""

  steps: np.ndarray
  smooth: np.ndarray
  noise: np.ndarray
  start: float
  end: float

  @classmethod
  def of(cls, steps: np.ndarray, values: np.ndarray) -> "_Curve":
    smooth = ndimage.median_filter(values, WINDOW, mode="nearest")
    noise = _noise(values)
    last = max(round(END * len(values)), WINDOW)
    return cls(steps, smooth, noise, float(values[0]), float(np.median(values[-last:])))

  @property
  def gain(self) -> float:
    """Return how far it fell."""
    return max(self.start - float(self.smooth.min()), 0.0)

  def near(self, step: float) -> float:
    """Return the lowest running median up to a step."""
    return float(self.smooth[: max(int(np.searchsorted(self.steps, step, side="right")), 1)].min())


def _noise(values: np.ndarray) -> np.ndarray:
  """Return the standard deviation of a loss from step to step, [steps]: that of the neighbours, or that of the whole
  relative to the loss if it is smaller, which a short time of large differences does not change."""
  change = np.abs(np.diff(values))
  near = ndimage.median_filter(np.append(change, change[-1]), NEIGHBOURS, mode="reflect")
  if values.min() > 0:
    relative = float(np.median(np.abs(np.diff(np.log(values)))))
    near = np.minimum(near, relative * ndimage.median_filter(values, NEIGHBOURS, mode="reflect"))
  return 1.4826 / np.sqrt(2) * near


def _rise(own: _Curve, other: _Curve, gain: float) -> tuple[int, float, float] | None:
  """Return the step from which the loss rises, its value there, and the highest after it; None if it does not rise."""
  before = np.concatenate([[own.start], own.smooth[:-1]])
  low = np.minimum.accumulate(before)
  # The noise is that of the place where the loss was lowest: it is not known from a place where training is breaking.
  lowest = np.maximum.accumulate(np.where(before <= low, np.arange(len(before)), 0))
  places = np.clip(np.searchsorted(other.steps, own.steps[np.maximum(lowest - 1, 0)]), 0, len(other.noise) - 1)
  rise = own.smooth - low
  if other is not own:
    also = other.smooth - np.minimum.accumulate(np.minimum(other.smooth, other.start))
    rise = rise - SHARED * also[np.clip(np.searchsorted(other.steps, own.steps), 0, len(also) - 1)]
  over = rise > np.maximum(RISE * gain, NOISE * other.noise[places])
  if not over.any():
    return None
  first = int(np.argmax(over))
  return int(own.steps[max(int(lowest[first]) - 1, 0)]), float(low[first]), float(own.smooth[first:].max())


def _behind(own: _Curve, other: _Curve, gain: float) -> int | None:
  """Return the step from which a training stays behind another until its end, or at which it stopped to improve if that
  is earlier; None if it does not end behind."""
  reached = np.minimum.accumulate(np.minimum(other.smooth, other.start))
  places = np.clip(np.searchsorted(other.steps, own.steps, side="right") - 1, 0, len(reached) - 1)
  middle = reached[places] + BEHIND * (other.start - reached[places])
  if other.start - reached[places[-1]] <= NOISE * other.noise[places[-1]] or own.end <= middle[-1]:
    return None
  level = np.flatnonzero(own.smooth <= middle)
  fell = int(level[-1]) + 1 if len(level) else 0
  stopped = int(np.argmax(own.smooth <= own.smooth.min() + STOPPED * gain))
  return int(own.steps[min(fell, stopped, len(own.steps) - 1)])

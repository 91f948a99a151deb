"""Checks of the model and of the loss: what they compute, and which parameters and inputs reach which outputs."""

from collections.abc import Callable

import numpy as np

from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.debug.layer_calls import differ, first_difference, first_not_finite
from trialbook.trainer.debug.session import LEARNED, Session, Verdict, count, part
from trialbook.trainer.tasks import LanguageModel

CLOSE = 1e-4
"""Differences below this share of the largest number are rounding; what leaks between examples is far larger."""
LOW, HIGH, FAR = 0.3, 2.0, 10.0
"""Bounds of a usual initial loss: from LOW times a guess's to HIGH above it, since logits of deviation s cost about
s²/2; with targets, which have no unit, up to FAR times a guess's."""
LOSS_BATCHES = 4
"""Batches over which the initial loss is averaged."""
CLOSE_LOOK = 8
"""Examples that are used to find the first layer that does something wrong."""


def gives_logits(session: Session) -> Verdict | None:
  """Check whether the outputs, and what the loss makes of them, are logits and not probabilities."""
  if session.answer != "labels" or session.task.num_outputs != session.info.num_classes:
    return None
  outputs, _ = session.outputs(session.state, session.probed)
  if outputs.shape[1:-1] != session.info.label_shape:
    return None
  if outputs.min() >= 0 and np.allclose(outputs.sum(axis=-1), 1, atol=1e-3):
    return Verdict(
      passed=False,
      seen="the model's outputs are probabilities (between 0 and 1, with sum 1)",
      remedy="return the input of the model's own softmax, because the loss applies softmax itself",
    )
  batch = session.calm_batch(0)
  guess = session.guess_loss(batch)
  if guess is None:
    return None
  labels = np.where(batch["labels"] == session.info.ignore_label, 0, batch["labels"])
  loss = session.loss(50 * np.eye(outputs.shape[-1], dtype=np.float32)[labels], batch)
  return Verdict(
    passed=loss <= LEARNED * guess,
    seen=f"outputs from {outputs.min():.2g} to {outputs.max():.2g};"
    f" the loss of confident, correct outputs is {loss:.2g}, that of a guess {guess:.2g}",
    remedy="check whether the task's loss applies softmax twice or shifts labels: correct logits do not lower it",
  )


def is_finite(session: Session) -> Verdict:
  """Check that parameters, outputs, losses and gradients are finite, initially and for a few steps; say where not."""
  bad = [name for name, value in flatten(session.state["params"]).items() if not np.isfinite(np.asarray(value)).all()]
  if bad:
    return Verdict(passed=False, seen=f"not finite: initial values of {_list(bad)}", remedy="check the initializer")
  before = session.calm_state
  remedy = "check what the layer divides by, or takes the logarithm or root of, for these numbers"
  for step, (after, metrics) in enumerate(session.few):
    if not np.isfinite([metrics["train/loss"], metrics["grad_norm"]]).all():
      batch = session.calm_batch(step)
      if place := first_not_finite(session.forward(before, batch, train=True)):
        return Verdict(passed=False, seen=f"not finite at step {step}, first in {place}", remedy=remedy)
      return _backward(session, step, after, metrics)
    before = after
  for step, state in ((0, session.state), (session.few_steps, session.trained)):
    if not np.isfinite(session.outputs(state, session.probed)[0]).all():
      place = first_not_finite(session.forward(state, session.probed, train=False)) or "the compiled program only"
      return Verdict(passed=False, seen=f"not finite at step {step} with train=False, first in {place}", remedy=remedy)
  first, last = (session.few[index][1] for index in (0, -1))
  return Verdict(
    passed=True,
    seen=f"over {session.few_steps} steps; loss {first['train/loss']:.3g} to {last['train/loss']:.3g},"
    f" gradient norm {first['grad_norm']:.3g} to {last['grad_norm']:.3g}",
  )


def _backward(session: Session, step: int, after: dict, metrics: dict[str, float]) -> Verdict:
  if not np.isfinite(metrics["train/loss"]):
    return Verdict(
      passed=False,
      seen=f"at step {step} the loss is {metrics['train/loss']}, although the outputs are finite",
      remedy="check what the task's loss divides by, or takes the logarithm of",
    )
  moments = flatten(after["opt_state"]["first_moment"])
  bad = [name for name, value in moments.items() if not np.isfinite(np.asarray(value)).all()]
  return Verdict(
    passed=False,
    seen=f"not finite at step {step}: the gradient of {_list(bad)}; the loss is {metrics['train/loss']:.3g}",
    remedy="check for derivatives that do not exist (of a root or a norm at 0) after the last of these layers",
  )


def starts_as_a_guess(session: Session) -> Verdict | None:
  """Check that the initial loss is near that of outputs that know nothing: log(classes) for the cross-entropy."""
  batches = [session.calm_batch(index) for index in range(1 if session.eager else LOSS_BATCHES)]
  guesses = [guess for batch in batches if (guess := session.guess_loss(batch)) is not None]
  if len(guesses) < len(batches):
    return None
  losses = [next(session.calm_steps([batch]))[1]["train/loss"] for batch in batches]
  loss, guess, of_targets = float(np.mean(losses)), float(np.mean(guesses)), session.answer == "targets"
  upper = FAR * guess if of_targets else guess + HIGH
  if not of_targets:
    is_log = np.isclose(guess, np.log(session.task.num_outputs or 1), rtol=1e-3)
    what = f"log({session.task.num_outputs}) = {guess:.4g}" if is_log else f"{guess:.4g}, the loss of a guess"
  else:
    what = f"{guess:.4g}, the loss of the targets' mean"
  too_high = loss > upper
  return Verdict(
    passed=not too_high and loss >= (0 if of_targets else LOW * guess),
    seen=f"{loss:.4g}; expected near {what}",
    remedy="check the scale of inputs, targets and the last layer's initial values, and the normalization layers"
    if too_high
    else "check whether the labels are among the model's inputs",
  )


def gradients_reach_all(session: Session) -> Verdict:
  """Check whether every parameter that is not frozen has a gradient other than exactly zero."""
  names = [name for name in flatten(session.state["params"]) if not session.is_frozen(name)]
  missing = [name for name in session.without_gradient() if name in names]
  return Verdict(
    passed=not missing,
    seen=f"no gradient reaches {_list(missing)}"
    if missing
    else f"all {len(names)} parameters within {session.few_steps} steps",
    remedy="check that the layer's result is used, without stop_gradient, argmax, rounding or integers on the way",
  )


def steps_repeat(session: Session) -> Verdict:
  """Check whether the same step, taken twice, gives the same numbers."""
  state, metrics = next(session.calm_steps([session.calm_batch(0)]))
  first, again = ({**flatten(s["params"]), "loss": m["train/loss"]} for s, m in (session.few[0], (state, metrics)))
  pairs = {name: (np.asarray(first[name], np.float32), np.asarray(again[name], np.float32)) for name in first}
  different = [name for name, (one, two) in pairs.items() if differ(one, two, CLOSE)]
  exact = all(np.array_equal(one, two) for one, two in pairs.values())
  return Verdict(
    passed=not different,
    seen=f"{_list(different)} differ" if different else "bit for bit" if exact else f"to a relative {CLOSE}",
    remedy="check for random numbers not from the model's rngs, and for state kept outside its variables",
  )


def evaluation_repeats(session: Session) -> Verdict:
  """Check that outputs with train=False depend on no random numbers and leave the model's variables alone."""
  state, batch = session.trained, session.probed
  (first, variables), (again, _) = (session.outputs(state, batch, seed) for seed in (0, 1))
  if differ(first, again, CLOSE):

    def with_seed(seed: int) -> Callable[[], object]:
      return session.forward(state, part(batch, slice(CLOSE_LOOK)), train=False, seed=seed)

    place = first_difference(with_seed(0), with_seed(1), lambda array: array, CLOSE)
    remedy = "turn dropout off if train=False"
    return Verdict(passed=False, seen=f"outputs with train=False are random, first in {place}", remedy=remedy)
  before, after = flatten(state["variables"]), flatten(variables)
  moved = [name for name in before if not np.array_equal(np.asarray(before[name]), np.asarray(after[name]))]
  return Verdict(
    passed=not moved,
    seen=f"an evaluation changes {_list(moved)}" if moved else "the same outputs twice, and no variable changed",
    remedy="update statistics only if train=True",
  )


def examples_are_independent(session: Session) -> Verdict | None:
  """Check that each example's outputs stay if the other examples of its batch are replaced, with train=False."""
  state, batch = session.trained, session.probed
  if count(batch) < 2:
    return Verdict(passed=None, seen="there is only one validation example")
  others = {path: array.copy() for path, array in batch.items()}
  for path, array in session.train.items():
    others[path][1::2] = array[np.arange(count(batch) // 2) % len(array)]
  first, again = (session.outputs(state, x)[0][::2] for x in (batch, others))
  if not first.size:
    return None
  largest = float(np.max(np.abs(first - again)))
  if not differ(first, again, CLOSE):
    return Verdict(passed=True, seen=f"outputs change by at most {largest:.1g} if every other example is replaced")

  def kept(array: np.ndarray) -> np.ndarray | None:
    return array[::2] if array.ndim and len(array) == min(CLOSE_LOOK, count(batch)) else None

  one, two = (session.forward(state, part(x, slice(CLOSE_LOOK)), train=False) for x in (batch, others))
  return Verdict(
    passed=False,
    seen=f"outputs change by {largest:.2g} if other examples are replaced, first in"
    f" {first_difference(one, two, kept, CLOSE)}",
    remedy="check over which axes it normalizes, and whether it uses the batch's statistics with train=False",
  )


def positions_are_causal(session: Session) -> Verdict | None:
  """Check whether a language model's outputs at a position stay if later inputs are replaced."""
  shape = session.info.input_shape
  if not isinstance(session.config.task, LanguageModel) or not shape or shape[0] < 2:
    return None
  state, batch, half = session.trained, session.probed, shape[0] // 2
  inputs = batch["inputs"].copy()
  inputs[:, half:] = np.roll(inputs[:, half:], 1, axis=0)[:, ::-1]
  others = {**batch, "inputs": inputs}
  first, again = (session.outputs(state, x)[0][:, :half] for x in (batch, others))
  if not differ(first, again, CLOSE):
    return Verdict(passed=True, seen=f"outputs up to position {half} do not change if later inputs are replaced")

  def earlier(array: np.ndarray) -> np.ndarray | None:
    return array[:, :half] if array.ndim > 1 and array.shape[1] == inputs.shape[1] else None

  one, two = (session.forward(state, part(x, slice(CLOSE_LOOK)), train=False) for x in (batch, others))
  return Verdict(
    passed=False,
    seen=f"outputs up to position {half} change by {np.max(np.abs(first - again)):.2g} if later inputs are"
    f" replaced, first in {first_difference(one, two, earlier, CLOSE)}",
    remedy="check the attention mask, the padding of convolutions, and over which axes it normalizes",
  )


def _list(names: list[str]) -> str:
  return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")

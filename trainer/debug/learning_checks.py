"""Checks that train: whether examples can be learned by heart, at which rate, and whether other examples profit."""

import itertools

import jax.numpy as jnp
import numpy as np

from trialbook.input_pipeline.source import Batch
from trialbook.trainer.debug.session import LEARNED, Session, Verdict, count, part

FAR = 10.0
"""Loss, as a multiple of a guess's, above which training diverges: no training that works passes through it."""
LEARNING_STEPS, LEARNING_RATES = 200, (1e-3, 1e-2, 1e-4)
"""Steps and rates of Adam to learn a few examples: the usual rate, one for small models, and one for deep models."""
RATE_STEPS, RATE_FACTORS = 30, (1.0, 1e-1, 1e-2, 1e-3)
"""Steps with each share of the config's learning rate."""
NOTICEABLE = 0.1
"""Share of its initial value by which a loss must fall, if it is unknown how far it can."""
PROBE_STEPS = 400
"""Calm steps after which a model that can predict other examples does so better than by chance."""
DEVIATIONS = 3.0
"""Standard deviations above chance that count as better: chance alone does that once in 700 times."""
FEW_OF_A_CLASS = 10
"""Training examples per class in the sample; if there are fewer, nothing need be learned from them."""
MOST_FEATURES = 2**14
"""Maximum number of an input's numbers that the probe uses, evenly spaced in larger inputs."""

_NO_STEPS = Verdict(passed=None, seen="skipped without jit, because it needs too many steps")


def a_batch_can_be_learned(session: Session) -> Verdict:
  """Check whether a few examples can be learned by heart, without anything that disturbs."""
  if session.eager:
    return _NO_STEPS
  batch = session.calm_batch(0)
  guess, best = session.guess_loss(batch), float("inf")
  start = session.few[0][1]["train/loss"] if guess is None else guess
  for learning_rate in LEARNING_RATES:
    batches = itertools.repeat(batch, LEARNING_STEPS)
    steps = session.calm_steps(batches, learning_rate, same_draws=session.task.draws)
    for step, (_, metrics) in enumerate(steps, 1):
      best = min(best, metrics["train/loss"])
      if best <= start - (1 - LEARNED) * abs(start):
        return Verdict(
          passed=True,
          seen=f"loss of {count(batch)} examples {start:.3g} → {best:.3g} in {step} steps"
          f" (Adam, learning rate {learning_rate:g})",
        )
  falls = guess is None and best <= start - NOTICEABLE * abs(start)
  what = "its initial value" if guess is None else "the loss of a guess"
  return Verdict(
    passed=None if falls else False,
    seen=f"the loss of {count(batch)} examples falls from {start:.3g}, {what}, only to"
    f" {best:.3g} in {LEARNING_STEPS} steps with Adam at {', '.join(f'{rate:g}' for rate in LEARNING_RATES)}"
    + ("; the least that is possible is unknown" if falls else ""),
    remedy="check that the loss fits the outputs, inputs reach the last layer, and the model is large enough",
  )


def learning_rate_fits(session: Session) -> Verdict:
  """Check whether the config's own optimizer, at its highest learning rate, lowers the loss of one batch."""
  if session.eager:
    return _NO_STEPS
  batch, base = session.own_batch(0), session.config.optimizer.learning_rate
  guess, tried = session.guess_loss(batch), []
  for factor in RATE_FACTORS:
    losses = _own_losses(session, batch, factor)
    last, largest = float(np.mean(losses[-5:])), float(np.max(losses))
    tried.append(f"{losses[0]:.3g} → {last:.3g} (at most {largest:.3g}) at {factor * base:.3g}")
    usual = losses[0] if guess is None else max(guess, losses[0])
    if np.isfinite(last) and last < losses[0] and largest < usual + (FAR - 1) * abs(usual):
      largest_rate = "" if factor == 1 else f"; the largest rate that lowers the loss is {factor * base:.3g}"
      return Verdict(
        passed=factor == 1,
        seen=f"loss over {RATE_STEPS} steps on one batch: {', '.join(tried)}{largest_rate}",
        remedy=f"optimizer.learning_rate = {base:g} is too high; start with {factor * base:.3g} or less",
      )
  return Verdict(
    passed=False,
    seen=f"loss over {RATE_STEPS} steps on one batch: {', '.join(tried)}",
    remedy="check the optimizer's other settings; Adam at a usual learning rate does lower the loss",
  )


def _own_losses(session: Session, batch: Batch, factor: float) -> np.ndarray:
  settings = dict(session.settings)
  settings["optimizer.learning_rate"] = settings["optimizer.learning_rate"] * np.float32(factor)
  # A warmup of any length is compressed, so that the highest learning rate is reached soon.
  settings["schedule.warmup_steps"] = jnp.minimum(settings["schedule.warmup_steps"], RATE_STEPS // 2)
  state, losses = session.state, []
  for _ in range(RATE_STEPS):
    before = state
    state, metrics = session.program("own_step")(state, settings, batch)
    if session.task.draws:
      # Losses are comparable only if the task draws the same for all of them.
      _, metrics = session.program("own_step")({**before, "step": session.state["step"]}, settings, batch)
    losses.append(metrics["train/loss"])
  return np.asarray(losses, np.float32)


def inputs_predict(session: Session) -> Verdict | None:
  """Check whether what is learned from training examples helps on validation examples, as it does if rows match.

  First by kernel ridge regression on the inputs themselves, which takes milliseconds; where that fails, by the model.
  """
  kind, classes = session.answer, session.info.num_classes or 1
  if kind is None or session.input_paths != ["inputs"] or session.outputs(session.state, session.probed)[0].ndim != 2:
    return None
  if session.train[kind].ndim > (1 if kind == "labels" else 2):
    return None
  train = _counted(session.train, session.info.ignore_label)
  if kind == "labels" and count(train) < FEW_OF_A_CLASS * classes:
    seen = f"{count(train)} training examples are too few for {classes} classes"
    return Verdict(passed=None, seen=seen)
  validation = _counted(session.validation, session.info.ignore_label)
  score, chance, enough = _score(_probe(train, validation, kind, classes), validation[kind], kind)
  what = "validation accuracy" if kind == "labels" else "validation correlation with the targets"
  seen = f"{what} of a simple probe is {score:.3f} (chance {chance:.3f}, needed {enough:.3f})"
  if score < enough and not session.eager:
    size = count(session.calm_batch(0))
    batches = (session.calm_batch(index) for index in range(PROBE_STEPS))
    *_, (state, _) = session.calm_steps(batches)
    rows = count(session.probed)
    starts = range(0, count(session.validation) - rows + 1, rows)
    parts = [session.outputs(state, session.eval_batch(start, start + rows))[0] for start in starts]
    answers = {"predicted": np.concatenate(parts), kind: session.validation[kind][: rows * len(parts)]}
    answers = _counted(answers, session.info.ignore_label)
    score, chance, enough = _score(answers["predicted"], answers[kind], kind)
    seen += f"; of the model after {PROBE_STEPS} steps of {size} examples, {score:.3f} (needed {enough:.3f})"
  return Verdict(
    passed=score >= enough,
    seen=seen,
    remedy="check that inputs and labels of a row belong together, in both splits. (A hard task looks the same.)",
  )


def _counted(batch: Batch, ignore_label: int | None) -> Batch:
  """Return the examples whose label counts."""
  return part(batch, batch["labels"] != ignore_label) if "labels" in batch and ignore_label is not None else batch


def _score(predicted: np.ndarray, truth: np.ndarray, kind: str) -> tuple[float, float, float]:
  """Return how well predictions [N, K] fit, the value by chance, and the value that counts as better than chance."""
  if kind == "labels":
    chance = float(np.bincount(truth).max() / len(truth))
    margin = DEVIATIONS * np.sqrt(chance * (1 - chance) / len(truth))
    return float(np.mean(predicted.argmax(axis=-1) == truth)), chance, min(chance + margin, 1.0)
  truth = truth.reshape(len(truth), -1)
  usable = [k for k in range(truth.shape[1]) if np.ptp(truth[:, k]) > 0 and np.ptp(predicted[:, k]) > 0]
  correlations = [np.corrcoef(predicted[:, k], truth[:, k])[0, 1] for k in usable]
  return float(max(correlations, default=0.0)), 0.0, DEVIATIONS / np.sqrt(len(truth))


def _probe(train: Batch, validation: Batch, kind: str, classes: int) -> np.ndarray:
  """Predict [N, classes or targets] by ridge regression with a Gaussian kernel as wide as the median distance."""
  known, asked = (_features(batch["inputs"], classes) for batch in (train, validation))
  center, scale = known.mean(axis=0), known.std(axis=0) + 1e-6
  known, asked = ((x - center) / scale for x in (known, asked))
  answers = np.eye(classes)[train[kind]] if kind == "labels" else train[kind].astype(np.float64).reshape(len(known), -1)
  mean = answers.mean(axis=0)

  def distances(x: np.ndarray) -> np.ndarray:
    squares = np.sum(x * x, axis=1)[:, None] + np.sum(known * known, axis=1) - 2 * x @ known.T
    return np.maximum(squares, 0).astype(np.float64)

  own = distances(known)
  width = max(float(np.median(own)), 1e-6)
  weights = np.linalg.solve(np.exp(-own / width) + 0.1 * np.eye(len(known)), answers - mean)
  return np.exp(-distances(asked) / width) @ weights + mean


def _features(inputs: np.ndarray, classes: int) -> np.ndarray:
  """Return features, float32 [N, numbers]: the counts of symbols, or the numbers of other inputs themselves."""
  if inputs.dtype == np.int32 and inputs.ndim == 2:
    symbols = min(int(inputs.max()) + 1, MOST_FEATURES)
    return np.stack([np.bincount(row[row < symbols], minlength=symbols) for row in inputs]).astype(np.float32)
  flat = inputs.reshape(len(inputs), -1)
  return flat[:, :: -(-flat.shape[1] // MOST_FEATURES)].astype(np.float32)

"""Studies with something wrong in their curves, by how much: what the findings about curves should see.

Each plant is a function of a seed and an effect size, and of changes of the healthy `planted.World` under it. Sizes are
in what a researcher would measure, and the levels go from invisible to plain. The table in docs/findings.md:

PYTHONPATH=tests/tuning python -m planted_curves
"""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import planted

from trialbook.tuning import StudyResults
from trialbook.tuning.findings.finding import Finding

Reshape = Callable[[planted.Curves, planted.Units, np.random.Generator], planted.Curves]

SMALL: Mapping[str, Any] = {"trials": 12}
"""Of most instances: as many trials as show it, drawn fast."""
SCHEDULES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
  "linear": lambda time: 1 - time,
  "cosine": lambda time: 0.5 * (1 + np.cos(np.pi * time)),
  "last_tenth": lambda time: np.minimum(1, (1 - time) / 0.1),
  "last_fifth": lambda time: np.minimum(1, (1 - time) / 0.2),
  "steps": lambda time: np.where(time < 1 / 3, 1, np.where(time < 2 / 3, 0.3, 0.1)),
}
"""Usual learning rates, of time from 0 to 1, as a share of the largest."""
HARD: Mapping[str, Any] = {"trials": 20, "evaluations": 20, "validation_examples": 2000}
"""The harder healthy control: few evaluations, each on few examples."""


def overfitting_best(seed: int, size: float, **world: Any) -> StudyResults:
  """In every trial, also the best, the validation error rises in a line by `size` (of its own) after a random step
  between 30% and 50% of the training."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    return _raised(curves, size, rng.uniform(0.3, 0.5))

  return _study(seed, reshape, world)


def overfitting_others(seed: int, size: float, **world: Any) -> StudyResults:
  """The same where the learning rate is in the upper third of its range, in which no trial is the best."""

  def reshape(curves: planted.Curves, units: planted.Units, rng: np.random.Generator) -> planted.Curves:
    start = rng.uniform(0.3, 0.5)
    return _raised(curves, size, start) if units["optimizer.learning_rate"] > 2 / 3 else curves

  def surface(units: planted.Units, _: np.random.Generator) -> float:
    return 0.08 + 0.6 * (units["optimizer.learning_rate"] - 0.35) ** 2

  return _study(seed, reshape, {"surface": surface, **world})


def noisy_end(seed: int, size: float, **world: Any) -> StudyResults:
  """The error varies from evaluation to evaluation by a standard deviation of `size`, up to the end."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    return _changed(curves, lambda time: size * rng.normal(0, 1, len(time)) * (time > 0))

  return _study(seed, reshape, world)


def following(schedule: str, share: float, *, logged: bool) -> Reshape:
  """A healthy study whose errors and losses are larger by `share` (of those at the end) times the learning rate."""
  factor = SCHEDULES[schedule]

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    found = {
      name: (steps, values if name == "grad_norm" else values + share * values[-1] * factor(steps / steps[-1]))
      for name, (steps, values) in curves.items()
    }
    steps = curves["train/loss"][0]
    return {**found, "learning_rate": (steps, factor(steps / steps[-1]))} if logged else found

  return reshape


def still_improving(seed: int, size: float, **world: Any) -> StudyResults:
  """The error falls in a line by `size` (of that at the end) in the last half of the training, at a constant learning
  rate."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    end = size * curves["validation/error"][1][-1]
    steps = curves["train/loss"][0]
    return {
      **_changed(curves, lambda time: 2 * end * np.minimum(1 - time, 0.5)),
      "learning_rate": (steps, np.ones(len(steps))),
    }

  return _study(seed, reshape, world)


def hardly_begun(seed: int, size: float, **world: Any) -> StudyResults:
  """The error falls from chance by as much as the steps to the power of `size`; no learning rate is logged."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, errors = curves["validation/error"]
    end = 0.3 + errors[-1]
    return {**curves, "validation/error": (steps, 0.9 - (0.9 - end) * (steps / steps[-1]) ** size)}

  return _study(seed, reshape, world)


def saturated_and_noisy(seed: int, size: float, **world: Any) -> StudyResults:
  """`saturated_early` where an evaluation varies by about 5% of the best error up to the end, in as many trials as a
  usual study has."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    found = {
      name: both if name == "grad_norm" else (both[0], np.interp(np.minimum(both[0] / (1 - size), both[0][-1]), *both))
      for name, both in curves.items()
    }
    return _changed(found, lambda time: 0.003 * rng.normal(0, 1, len(time)) * (time > 0))

  return _study(seed, reshape, {"trials": 48, **world})


def saturated_early(seed: int, size: float, **world: Any) -> StudyResults:
  """The training would have been as good with a share of 1 - `size` of the steps: all that happens, happens in them."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    found = {}
    for name, (steps, values) in curves.items():
      if name == "grad_norm":
        found[name] = steps, values
      else:
        found[name] = steps, np.interp(np.minimum(steps / (1 - size), steps[-1]), steps, values)
    return found

  return _study(seed, reshape, world)


def rising_training_loss(seed: int, size: float, **world: Any) -> StudyResults:
  """In a third of the trials the training loss rises by `size` (of its own) in the last third of the training."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    if rng.random() > 1 / 3:
      return curves
    return {
      name: (steps, values * (1 + size * 3 * np.maximum(steps / steps[-1] - 2 / 3, 0))) if _is_training(name) else both
      for name, both in curves.items()
      for steps, values in [both]
    }

  return _study(seed, reshape, world)


def periodic(seed: int, size: float, **world: Any) -> StudyResults:
  """A sine of amplitude `size` in the validation error, 3 to 10 evaluations long, the same in all trials."""
  turns = np.random.default_rng(seed + 500_000).uniform(5, 16)

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    phase = rng.uniform(0, 2 * np.pi)
    return _changed(curves, lambda time: size * np.sin(2 * np.pi * turns * time + phase) * (time > 0))

  return _study(seed, reshape, world)


def early_best(seed: int, size: float, **world: Any) -> StudyResults:
  """In a share `size` of the trials the best evaluation is in the first tenth, and the error a quarter higher after."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    if rng.random() > size:
      return curves
    return _changed(
      {
        name: (steps, np.interp(np.minimum(steps / 0.08, steps[-1]), steps, values)) if "/" in name else (steps, values)
        for name, (steps, values) in curves.items()
      },
      lambda time: 0.25 * curves["validation/error"][1][-1] * np.clip((time - 0.08) / 0.2, 0, 1),
    )

  return _study(seed, reshape, {"evaluations": 100, **world})


def gradient_outliers(seed: int, size: float, **world: Any) -> StudyResults:
  """One norm in fifty is `size` times as large as its neighbours, in every second trial."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, norm = curves["grad_norm"]
    hit = (rng.random(len(norm)) < 0.02) & (rng.random() < 0.5)
    return {**curves, "grad_norm": (steps, np.where(hit, size * norm, norm))}

  return _study(seed, reshape, world)


def _study(seed: int, reshape: Reshape, world: Mapping[str, Any]) -> StudyResults:
  return planted.healthy(seed, **{**SMALL, "reshape": reshape, **world})


def _changed(curves: planted.Curves, change: Callable[[np.ndarray], np.ndarray]) -> planted.Curves:
  """With a change of the validation error, of time [evaluations] from 0 to 1; of the loss three times as large."""
  steps, errors = curves["validation/error"]
  added = change(steps / steps[-1])
  loss_steps, losses = curves["validation/loss"]
  return {**curves, "validation/error": (steps, errors + added), "validation/loss": (loss_steps, losses + 3 * added)}


def _raised(curves: planted.Curves, size: float, start: float) -> planted.Curves:
  end = curves["validation/error"][1][-1]
  return _changed(curves, lambda time: size * end * np.maximum(time - start, 0) / (1 - start))


def _is_training(name: str) -> bool:
  return name in ("train/loss", "train_subset/loss", "train_subset/error")


def _titled(*words: str) -> Callable[[Finding], bool]:
  """A finding that something is wrong, with such words."""
  return lambda one: one.severity in ("note", "warning", "problem") and any(word in one.title for word in words)


def _warned(*words: str) -> Callable[[Finding], bool]:
  """The same, not only as a note."""
  return lambda one: one.severity in ("warning", "problem") and any(word in one.title for word in words)


@dataclasses.dataclass(frozen=True)
class Plant:
  """What is planted, and what should see it.

  Attributes:
    name: in words.
    question: the module that looks for it.
    draw: the study of a seed and a size.
    unit: of the sizes.
    sizes: from invisible to plain.
    reached: the smallest of them at which detection is 0.9 at least.
    matters: why that size matters in practice.
    seen: whether a finding is that of the plant.
  """

  name: str
  question: str
  draw: Callable[..., StudyResults]
  unit: str
  sizes: Sequence[float]
  reached: float
  matters: str
  seen: Callable[[Finding], bool]


PLANTS = (
  Plant(
    "overfitting in the best trial",
    "overfitting",
    overfitting_best,
    "rise of the error, of itself",
    (0.05, 0.1, 0.2, 0.3, 0.5),
    0.3,
    "with the fall that goes on beside it, a net rise by a fifth: more than most comparisons are about",
    _titled("of the best trial rises", "of the best trial of"),
  ),
  Plant(
    "overfitting only in others",
    "overfitting",
    overfitting_others,
    "rise of the error, of itself",
    (0.02, 0.05, 0.1, 0.2),
    0.1,
    "such trials would be as good as the best, stopped earlier or regularized",
    _titled("trials overfit"),
  ),
  Plant(
    "noisy end",
    "late_noise",
    noisy_end,
    "standard deviation of the error",
    (0.005, 0.01, 0.02, 0.03),
    0.03,
    "about a third of the best errors: the best of fifty evaluations flatters its trial by two of them",
    _titled("Late in training"),
  ),
  Plant(
    "still improving",
    "convergence",
    still_improving,
    "fall over the last half, of the final error",
    (0.05, 0.1, 0.2, 0.3, 0.4),
    0.3,
    "a fifth more steps gain about 12% of the error: more than most hyperparameters do once tuned",
    _warned("still improves"),
  ),
  Plant(
    "saturated early",
    "convergence",
    saturated_early,
    "share of the steps that is idle",
    (0.3, 0.5, 0.6, 0.7, 0.8),
    0.6,
    "the compute pays for more than two studies instead of one",
    _titled("improves by less than", "is no better at the end"),
  ),
  Plant(
    "hardly begun, no learning rate logged",
    "convergence",
    hardly_begun,
    "power of the steps by which it improves",
    (0.1, 0.3, 0.5, 0.7, 1.0),
    0.7,
    "a fifth more steps gain more than a tenth of all that was gained: what is best now is what starts fastest",
    _warned("still improves"),
  ),
  Plant(
    "saturated early, noisy evaluations",
    "convergence",
    saturated_and_noisy,
    "share of the steps that is idle",
    (0.3, 0.5, 0.6, 0.7, 0.8),
    0.7,
    "the compute pays for three studies instead of one",
    _titled("improves by less than", "is no better at the end"),
  ),
  Plant(
    "rising training loss",
    "convergence",
    rising_training_loss,
    "rise of the loss, of itself",
    (0.05, 0.1, 0.2, 0.4),
    0.2,
    "less is the sway of regularization and batches; a bug is seldom so small",
    _titled("Training loss rises"),
  ),
  Plant(
    "periodic validation",
    "periodicity",
    periodic,
    "amplitude of the error",
    (0.001, 0.002, 0.004, 0.006, 0.01),
    0.004,
    "a third above the noise of an evaluation on 10,000 examples: hardly seen in a single curve",
    _titled("period"),
  ),
  Plant(
    "best step always early",
    "selected_step",
    early_best,
    "share of the trials",
    (0.3, 0.6, 0.8, 1.0),
    1.0,
    "the playbook says always; at four fifths of a dozen trials the interval still holds one half",
    _titled("far too long"),
  ),
  Plant(
    "gradient outliers",
    "gradient_norm",
    gradient_outliers,
    "factor over the neighbours, in 2% of the steps",
    (2, 3, 4, 6),
    4,
    "an update that is four times as long; smaller ones are in the tail of healthy noise",
    _titled("Gradient norms have outliers"),
  ),
)


def found(question: str, results: StudyResults) -> list[Finding]:
  """What a module finds."""
  return importlib.import_module(f"trialbook.tuning.findings.{question}").find(results)


def rate(plant: Plant, size: float, seeds: Sequence[int]) -> float:
  """The share of seeds in which the plant of a size is seen."""
  return sum(any(map(plant.seen, found(plant.question, plant.draw(seed, size)))) for seed in seeds) / len(seeds)


def false_alarms(world: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, float]:
  """For each plant, the share of healthy studies in which it is seen; for each module, of those with a warning or a
  problem."""
  counts = {name: 0 for plant in PLANTS for name in (plant.name, plant.question)} | {"optimization": 0}
  for seed in seeds:
    results = planted.healthy(seed, **world)
    by_question = {question: found(question, results) for question in {p.question for p in PLANTS} | {"optimization"}}
    for question, findings in by_question.items():
      counts[question] += any(one.severity in ("warning", "problem") for one in findings)
    for plant in PLANTS:
      counts[plant.name] += any(map(plant.seen, by_question[plant.question]))
  return {name: count / len(seeds) for name, count in counts.items()}


def schedule_alarms(schedule: str, share: float, seeds: Sequence[int]) -> dict[str, float]:
  """For each module, the share of studies of `following` with a warning or a problem; in turn logged and not."""
  halves = [
    false_alarms({"trials": 16, "reshape": following(schedule, share, logged=logged)}, seeds[logged::2])
    for logged in (False, True)
  ]
  modules = {plant.question for plant in PLANTS} | {"optimization"}
  return {name: (halves[0][name] + halves[1][name]) / 2 for name in modules}


def table(seeds: Sequence[int]) -> str:
  """Markdown: a row for each plant."""
  controls = [false_alarms(world, seeds) for world in ({}, HARD)]
  lines = [
    "| planted | size | detected | 0.9 at | why that size matters | false alarms: healthy, harder |",
    "|---|---|---|---|---|---|",
  ]
  for plant in PLANTS:
    rates = {size: rate(plant, size, seeds) for size in plant.sizes}
    reached = next((f"{size:g}" for size in plant.sizes if rates[size] >= 0.9), "not reached")
    lines.append(
      f"| {plant.name} (`{plant.question}`) | {plant.unit} |"
      f" {', '.join(f'{size:g}: {share:.2f}' for size, share in rates.items())} | {reached} | {plant.matters} |"
      f" {', '.join(f'{control[plant.name]:.2f}' for control in controls)} |"
    )
  lines += ["", "| schedule | share | false alarms: `convergence`, `periodicity`, the most of the others |"]
  lines.append("|---|---|---|")
  for schedule in SCHEDULES:
    for share in (0.3, 1.0):
      rates = schedule_alarms(schedule, share, seeds)
      first = [rates.pop("convergence"), rates.pop("periodicity")]
      lines.append(f"| {schedule} | {share:g} | {', '.join(f'{rate:.2f}' for rate in [*first, max(rates.values())])} |")
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  sys.stdout.write(table(range(50)))

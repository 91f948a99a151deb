"""The figures of the Deep Learning Tuning Playbook, drawn again from small trainings on this machine.

  python -m benchmarks.gallery [FIGURE ...] [--runs=DIR] [--workers=N]

A figure is a name of `FIGURES`; without one, all are drawn. The trainings are studies in `runs/gallery`: a second call
draws the same pictures without training. The pictures go to `docs/images/gallery`, and their numbers to the terminal.
"""

import argparse
import itertools
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from trialbook.progress import duration
from trialbook.trainer import Config
from trialbook.tuning import Grid, Halton, Log, Minimize, OneOf, Study, StudyResults, run_study
from trialbook.tuning.procedures import clip, drawing, stability, warmup
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.loss_plots import loss_curves
from trialbook.tuning.procedures.rate_sweep import RATE, rate_of
from trialbook.tuning.results import Trial

PICTURES = pathlib.Path(__file__).resolve().parent.parent / "docs" / "images" / "gallery"
ERROR, LOSS = "validation/error", "validation/loss"
FIRST = 60
"""Steps of the figures of trainings that diverge at once."""
RARE = 50
"""Steps from one evaluation to the next one that would miss an early instability."""
QUIET: Mapping[str, Any] = {"checkpointing.every_evaluations": 0, "export": False, "logging.tensorboard": False}
"""Changes of all trainings: only their numbers are used."""
BINS = 6
"""Intervals of a hyperparameter in an isolation plot."""
DRAWS = 1000
"""Draws of k trials for each box of a box plot."""


def digits(changes: Mapping[str, Any]) -> Config:
  """Return a training on the digits."""
  return Config().override({**QUIET, **changes})


def simple(name: str, space: Mapping[str, Any], trials: int) -> Study:
  """Return a study of a perceptron with one hidden layer, 150 steps each."""
  config = digits(
    {"model.name": "mlp", "model.widths": (32,), "max_train_steps": 150, "evaluation.every_steps": 30, "batch_size": 64}
  )
  goal = "How do the best values lie in the search space?"
  return Study(
    name=name,
    goal=goal,
    config=config,
    objective=Minimize(ERROR),
    nuisance=dict(space),
    trials=trials,
    search=Halton(seed=0),
  )


def residual() -> Config:
  """Return a training of a residual network whose branches do not start at zero, at a stable learning rate."""
  return digits(
    {
      "model": {"name": "benchmarks.unstable:ResidualMlp"},
      RATE: 1e-3,
      "schedule": {"name": "cosine"},
      "max_train_steps": 1000,
      "batch_size": 64,
      "evaluation.every_steps": 100,
    }
  )


def small_start() -> Config:
  """Return a training of a network whose weights start too small, at a stable learning rate."""
  return digits(
    {
      "model": {"name": "benchmarks.unstable:SmallStart", "kwargs": {"depth": 3, "size": 0.0005}},
      "optimizer": {"name": "sgd", "learning_rate": 1e-4},
      "schedule": {"name": "cosine"},
      "max_train_steps": 1000,
      "batch_size": 64,
      "evaluation.every_steps": 100,
      "selection.metric": LOSS,
    }
  )


class Gallery:
  """The studies that the figures share, run when a figure first needs them."""

  def __init__(self, folder: pathlib.Path, workers: int):
    self.folder, self.workers = folder, workers
    self.ran: dict[str, list[StudyResults]] = {}
    self._done: dict[str, tuple[Lab, Conclusion]] = {}

  def run(self, study: Study) -> StudyResults:
    """Run a study, or read what it has."""
    results = run_study(study, self.folder / study.name, workers=self.workers, progress=True)
    self.ran[study.name] = [results]
    return results

  def good(self) -> StudyResults:
    """Return a study with wide boundaries."""
    space = {RATE: Log(1e-3, 10.0), "optimizer.one_minus_momentum": Log(1e-2, 1.0)}
    return self.run(simple("good_boundaries", {**space, "optimizer.weight_decay": Log(1e-6, 1.0)}, 30))

  def bad(self) -> StudyResults:
    """Return a study whose boundaries leave the best learning rates out."""
    space = {RATE: Log(1e-5, 1e-2), "optimizer.one_minus_momentum": Log(1e-2, 1.0)}
    return self.run(simple("bad_boundaries", {**space, "optimizer.weight_decay": Log(1e-6, 1.0)}, 10))

  def procedure(
    self, name: str, function: Callable[[Lab], Conclusion], config: Config | None = None
  ) -> tuple[Lab, Conclusion]:
    """Run a procedure, on the residual network without a config, and return the lab and what it concludes."""
    if name not in self._done:
      lab = Lab(folder=self.folder / name, config=config or residual(), workers=self.workers, progress=True)
      self._done[name] = lab, function(lab)
      self.ran[name] = list(lab.results.values())
      print(self._done[name][1].verdict)
    return self._done[name]

  def frequent(self) -> StudyResults:
    """Return trainings of a small perceptron at large learning rates, evaluated at every step."""
    config = digits({"model.name": "mlp", "model.widths": (32,), "schedule": {"name": "constant"}, "batch_size": 64})
    changes = {"max_train_steps": 150, "evaluation.every_steps": 1, "evaluation.predictions": 0}
    return self.run(
      Study(
        name="every_step",
        goal="Do large learning rates raise the loss of the first steps?",
        config=config.override({**changes, "evaluation.train_examples": 0}),
        objective=Minimize(ERROR),
        nuisance={RATE: OneOf([0.1, 0.2, 0.4, 0.8])},
        search=Grid(),
      )
    )


def axis_plot(trials: Sequence[tuple[str, float, float]], x: str, title: str, y: str = ERROR) -> dict[str, Any]:
  """Return points (group, hyperparameter, value) on a logarithmic axis."""
  rows = [{"group": group, "x": at, "y": value} for group, at, value in trials]
  return _points(rows, x, y).properties(title=title).to_dict()


def _points(rows: Sequence[Mapping[str, Any]], x: str, y: str, *, line: bool = False) -> alt.Chart:
  chart = alt.Chart(drawing.rows(rows))
  made = chart.mark_line(point=True) if line else chart.mark_circle(size=45, opacity=0.8)
  groups = list(dict.fromkeys(row["group"] for row in rows))
  legend = alt.Legend(orient="top", columns=3) if len(groups) > 1 else None
  return made.encode(
    x=alt.X("x:Q", title=x, scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=6, format="~g")),
    y=alt.Y("y:Q", title=y, scale=alt.Scale(type="log")),
    color=alt.Color("group:N", title=None, sort=groups, legend=legend),
  )


def value(trial: Trial) -> float | None:
  """Return the best validation error of a trial; None if it has none."""
  return None if trial.objective is None else float(trial.objective)


def boundaries(gallery: Gallery) -> tuple[dict[str, Any], str]:
  """Figure 1: the same hyperparameter in a search space that leaves out its best values, and in one that does not."""
  rows = []
  said = []
  for name, results in (("bad: 1e-5 to 1e-2", gallery.bad()), ("good: 1e-3 to 10", gallery.good())):
    trials = [trial for trial in results.trials if trial.objective is not None]
    rows += [(name, rate_of(trial), float(trial.objective or 0.0)) for trial in trials]
    best = results.best
    assert best is not None
    said.append(f"{name}: best {best.objective:.3g} at {rate_of(best):.2g}, {len(trials)} of {len(results.trials)}")
  return axis_plot(rows, "learning rate", "Bad and good boundaries"), "; ".join(said)


def isolation(gallery: Gallery) -> tuple[dict[str, Any], str]:
  """Figure 2: for each weight decay, the best trial, whatever its other hyperparameters."""
  name, results = "optimizer.weight_decay", gallery.good()
  valued = [trial for trial in results.trials if trial.objective is not None]
  decays = [float(trial.values[name]) for trial in valued]
  edges = np.geomspace(1e-6, 1.0, BINS + 1)
  rows = []
  for low, high in itertools.pairwise(edges):
    inside = [trial for trial, decay in zip(valued, decays, strict=True) if low <= decay < high]
    if inside:
      best = min(inside, key=lambda trial: trial.objective or 0.0)
      rows.append({"group": "best", "x": float(best.values[name]), "y": best.objective, "trials": len(inside)})
  plot = _points(rows, "weight decay", f"best {ERROR}", line=True)
  said = ", ".join(f"{row['x']:.2g}: {row['y']:.3g} (of {row['trials']})" for row in rows)
  return plot.properties(title="Isolation plot of the weight decay").to_dict(), said


def best_of_k(gallery: Gallery) -> tuple[dict[str, Any], str]:
  """Figure 3: what a search of k trials finds, by drawing k trials again and again."""
  results = gallery.good()
  values = np.array([math.inf if trial.objective is None else trial.objective for trial in results.trials])
  rng = np.random.default_rng(0)
  rows, said = [], []
  for k in (1, 2, 4, 8, 16):
    drawn = np.array([rng.choice(values, k, replace=False).min() for _ in range(DRAWS)])
    drawn = drawn[np.isfinite(drawn)]
    low, quarter, middle, three, high = (float(one) for one in np.quantile(drawn, (0.05, 0.25, 0.5, 0.75, 0.95)))
    rows.append({"k": k, "low": low, "quarter": quarter, "middle": middle, "three": three, "high": high})
    said.append(f"k={k}: {middle:.3g} ({low:.3g} to {high:.3g})")
  base = alt.Chart(drawing.rows(rows)).encode(x=alt.X("k:O", title="trials", axis=alt.Axis(labelAngle=0)))
  whiskers = base.mark_rule(color="#3d7dca").encode(
    y=alt.Y("low:Q", title=f"best {ERROR}", scale=alt.Scale(type="log")), y2="high:Q"
  )
  boxes = base.mark_bar(size=26, color="#3d7dca").encode(y="quarter:Q", y2="three:Q")
  middles = base.mark_tick(size=26, color="white", thickness=2).encode(y="middle:Q")
  plot = alt.layer(whiskers, boxes, middles).properties(title="The best of k trials")
  return plot.to_dict(), "; ".join(said)


def early(gallery: Gallery) -> tuple[dict[str, Any], str]:
  """Figure 5: an early instability from which training recovers, so that only frequent evaluation shows it."""
  trials = [trial for trial in gallery.frequent().trials if trial.recorded[0] == "complete"]
  trial = max(trials, key=rate_of)
  steps, values = trial.curve(LOSS)
  rare = steps % RARE == 0
  names = ["every step", f"every {RARE} steps"]
  rows = [
    {"group": name, "x": int(step), "y": float(one)}
    for name, at in zip(names, (np.ones_like(rare), rare), strict=True)
    for step, one in zip(steps[at], values[at], strict=True)
  ]
  chart = alt.Chart(drawing.rows(rows)).mark_line(strokeWidth=1.5, point=False)
  plot = chart.encode(
    x=alt.X("x:Q", title="step"),
    y=alt.Y("y:Q", title=LOSS, scale=alt.Scale(type="log")),
    color=alt.Color("group:N", title=None, sort=names, legend=alt.Legend(orient="top")),
  )
  top = int(np.argmax(values))
  title = f"The first steps at a learning rate of {rate_of(trial):.3g}"
  return plot.properties(title=title).to_dict(), (
    f"at {rate_of(trial):g}: {values[0]:.3g} at step 0, {values[top]:.3g} at step {steps[top]}; at every {RARE} steps "
    + ", ".join(f"{one:.3g}" for one in values[rare])
  )


def during_warmup(gallery: Gallery) -> tuple[dict[str, Any], str]:
  """Figure 6: training that becomes unstable while the learning rate still rises."""
  lab, found = gallery.procedure("warmup", warmup.run)
  names = [name for name in lab.results if name.startswith("warmups_")]
  trials = [trial for name in names for trial in lab.results[name].trials if trial.values["seed"] == lab.config.seed]
  trials.sort(key=lambda trial: trial.values["schedule.warmup_steps"])
  shown = {f"{trial.values['schedule.warmup_steps']} steps of warmup": trial for trial in trials}
  title = f"Short warmups to {found.numbers['peak_learning_rate']:.3g}"
  return loss_curves(shown, title), ", ".join(f"{name}: {trial.recorded[0]}" for name, trial in shown.items())


def _stability_trials(gallery: Gallery) -> list[Trial]:
  lab, _ = gallery.procedure("stability", stability.run)
  found = {rate_of(trial): trial for name in lab.results if name != "every_step" for trial in lab.results[name].trials}
  return [found[rate] for rate in sorted(found)]


def unstable_axis(gallery: Gallery) -> tuple[dict[str, Any], str]:
  """Figure 7a: the axis plot of a model that is unstable right above its best learning rate."""
  rows = [("", rate_of(trial), float(trial.objective or 0.9)) for trial in _stability_trials(gallery)]
  title = "Axis plot of an unstable model"
  said = ", ".join(f"{rate:.3g}: {error:.3g}" for _, rate, error in rows)
  return axis_plot(rows, "learning rate", title, f"{ERROR} (0.9: diverged)"), said


def unstable_curves(gallery: Gallery) -> tuple[dict[str, Any], str]:
  """Figure 7b: the losses of that model at its best learning rate and above."""
  trials = _stability_trials(gallery)
  best = min(trials, key=lambda trial: math.inf if trial.objective is None else trial.objective)
  shown = {f"{rate_of(trial):.3g}": trial for trial in trials if 0.99 <= rate_of(trial) / rate_of(best) <= 3.3}
  return loss_curves(shown, "Training loss of an unstable model", until=FIRST), f"best at {rate_of(best):.3g}"


def warmup_benefit(gallery: Gallery) -> tuple[dict[str, Any], str]:
  """Figure 8: the baseline and training with warmup to a much larger learning rate."""
  lab, _ = gallery.procedure("warmup_small_start", warmup.run, small_start())
  comparisons = [lab.results[name] for name in lab.results if name.startswith("comparison_")]
  if not comparisons:
    return {}, "no whole training with warmup, since no short one was stable"
  baseline, candidate = comparisons[-1].trials
  steps = candidate.values["schedule.warmup_steps"]
  shown = {
    f"{rate_of(baseline):.3g}, no warmup": baseline,
    f"{rate_of(candidate):.3g}, {steps} steps of warmup": candidate,
  }
  return loss_curves(shown, "Warmup"), ", ".join(f"{name}: {value(trial)}" for name, trial in shown.items())


def clip_benefit(gallery: Gallery) -> tuple[dict[str, Any], str]:
  """Figure 9: the same learning rate without and with clipping."""
  lab, found = gallery.procedure("clip", clip.run)
  rate, threshold = found.numbers.get("learning_rate"), found.numbers.get("threshold")
  if rate is None or threshold is None:
    return {}, "no training with clipping, since none was stable"
  clipped = [trial for name in lab.results if name.startswith("clipped_") for trial in lab.results[name].trials]
  best = next(one for one in clipped if rate_of(one) == rate and one.values.get("clip_norm") == threshold)
  without = next(trial for trial in lab.results["unclipped"].trials if rate_of(trial) == rate)
  shown = {f"{rate:.3g}, not clipped": without, f"{rate:.3g}, clipped at {threshold:g}": best}
  return loss_curves(shown, "Clipping"), ", ".join(f"{name}: {value(trial)}" for name, trial in shown.items())


def costs(gallery: Gallery) -> str:
  """Return the table of what was trained."""
  lines = ["| study or procedure | trainings | steps | seconds of training |", "|---|---:|---:|---:|"]
  for name, studies in gallery.ran.items():
    trials = [trial for results in studies for trial in results.trials]
    steps, seconds = sum(trial.last_step for trial in trials), sum(trial.training_seconds for trial in trials)
    lines.append(f"| {name} | {len(trials)} | {steps:,} | {seconds:.0f} |")
  return "\n".join(lines)


FIGURES: Mapping[str, Callable[[Gallery], tuple[dict[str, Any], str]]] = {
  "boundaries": boundaries,
  "isolation": isolation,
  "best_of_k": best_of_k,
  "early": early,
  "during_warmup": during_warmup,
  "unstable_axis": unstable_axis,
  "unstable_curves": unstable_curves,
  "warmup": warmup_benefit,
  "clipping": clip_benefit,
}
"""The figures by name, in the playbook's order."""


def main(argv: Sequence[str] | None = None) -> int:
  """Draw figures, and print their numbers."""
  parser = argparse.ArgumentParser(description="Draw the playbook's figures from own trainings.")
  parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(FIGURES))
  parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/gallery"), help="folder of the studies")
  parser.add_argument("--workers", type=int, default=2, help="trainings at a time")
  options = parser.parse_args(argv)
  if unknown := [name for name in options.figures if name not in FIGURES]:
    parser.error(f"unknown figures: {', '.join(unknown)}; available: {', '.join(FIGURES)}")
  gallery = Gallery(options.runs, options.workers)
  PICTURES.mkdir(parents=True, exist_ok=True)
  for name in options.figures or FIGURES:
    start = time.monotonic()
    plot, said = FIGURES[name](gallery)
    if plot:
      plot.pop("config", None)
      drawing.write({name: {**plot, "width": drawing.WIDTH, "height": drawing.HEIGHT}}, PICTURES)
    print(f"{name} ({duration(time.monotonic() - start)}): {said}", flush=True)
  print(costs(gallery))
  return 0


if __name__ == "__main__":
  sys.exit(main())

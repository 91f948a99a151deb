"""Functions whose trials a rule ends early, and their studies."""

import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

from trialbook.errors import InfeasibleError
from trialbook.tuning import Halton, Linear, Log, Minimize, QuantileStopping, Study

STEPS, TRIALS = 12, 30
FOLDER = "PRUNED_FOLDER"
"""Environment variable: where a function finds what is to happen to it, and notes what it did."""


def loss(x: float, y: float, step: int) -> float:
  """What is learned fast is not always what is best in the end, so trials cross."""
  return 0.3 * (x - 0.3) ** 2 + 0.25 * y + 0.5 * 2.0 ** (-step * (0.1 + y))


def curve(x: float, y: float) -> Iterator[Mapping[str, float]]:
  """A loss after each of twelve steps. One trial in six ends early by itself."""
  for step in range(1, STEPS + 1):
    if x > 0.9 and step > 4:
      raise InfeasibleError("x is too large")
    if y > 0.93:
      yield {"loss": float("nan"), "negative": float("nan")}
    elif x < 0.05 and step > 8:
      return
    else:
      yield {"loss": loss(x, y, step), "negative": -loss(x, y, step)}


def slow(x: float, y: float) -> Iterator[Mapping[str, float]]:
  """As `curve`, at a speed of its own, so that trials that are run side by side overtake one another."""
  folder = pathlib.Path(os.environ[FOLDER])
  name = f"{x:.6f}"
  with (folder / name).open("a") as file:
    file.write(f"{os.getpid()}\n")
  try:
    for step, values in enumerate(curve(x, y), start=1):
      time.sleep(0.01 + 0.04 * ((x * 997) % 1))
      _kill_once(folder, name, step)
      while (folder / f"hold {name} {step}").exists():
        time.sleep(0.01)
      yield values
  except GeneratorExit:
    (folder / f"{name} closed").touch()
    raise


def _kill_once(folder: pathlib.Path, name: str, step: int) -> None:
  """Kill this process at a step at which its trial is to be killed, the first time."""
  with contextlib.suppress(FileNotFoundError):
    (folder / f"kill {name} {step}").unlink()
    os.kill(os.getpid(), signal.SIGKILL)


def study(**changes: Any) -> Study:
  settings: dict[str, Any] = {
    "name": "pruned",
    "goal": "Which x?",
    "objective": Minimize("loss"),
    "function": "pruned_functions:curve",
    "nuisance": {"x": Linear(0.0, 1.0), "y": Linear(0.0, 1.0)},
    "trials": TRIALS,
    "search": Halton(seed=1),
    "stopping": QuantileStopping(quantile=0.5, at=(3, 6), after=6),
  }
  return Study(**{**settings, **changes})


def at_once(x: float, y: float) -> Mapping[str, float]:
  """Its only value is its last one."""
  return {"loss": loss(x, y, STEPS)}


def trainings(**changes: Any) -> Study:
  """A study of trainings, of which the rule ends about half."""
  from tiny import mlp

  settings: dict[str, Any] = {
    "name": "trainings",
    "goal": "Which rate?",
    "config": mlp(max_train_steps=80, evaluation__every_steps=10, evaluation__predictions=5),
    "objective": Minimize("validation/loss"),
    "nuisance": {"optimizer.learning_rate": Log(1e-4, 10.0)},
    "trials": 12,
    "search": Halton(seed=2),
    "stopping": QuantileStopping(quantile=0.5, at=(0.25, 0.5), after=3),
    "max_attempts": 20,
  }
  return Study(**{**settings, **changes})

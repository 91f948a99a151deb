"""A study of short trials beside the same trials as processes of their own; and a study of a thousand trials.

  python -m benchmarks.study

All sides work on two cores, two trials at a time, each on a core of its own. The trials differ in traced
hyperparameters: a study's worker compiles once, and the others read the persistent cache or compile each time.
"""

import argparse
import itertools
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.experiments import digits_resnet
from trialbook.tuning import Halton, Linear, Log, Minimize, Study
from trialbook.tuning.execution.planned_study import prepare
from trialbook.tuning.records import read_study, read_trials

TRIALS = 16
WORKERS = 2
CHANGES = {"max_train_steps": 400, "evaluation.every_steps": 100, "schedule.warmup_steps": 20}
THOUSAND = 1000


def get_study() -> Study:
  """Return a study of sixteen ResNets on digits with three traced hyperparameters."""
  return Study(
    name="short_trials",
    goal="How long do short trials take?",
    config=digits_resnet.get_config().override(CHANGES),
    objective=Minimize("validation/error"),
    nuisance={
      "optimizer.learning_rate": Log(1e-2, 1.0),
      "optimizer.one_minus_momentum": Log(3e-2, 1.0),
      "optimizer.weight_decay": Log(1e-6, 1e-2),
    },
    trials=TRIALS,
    search=Halton(seed=0),
  )


def objective(x: float, y: float) -> dict[str, float]:
  """Return a loss without any training."""
  return {"loss": (x - 0.3) ** 2 + y}


def get_thousand() -> Study:
  """Return a study of a thousand trials that cost nothing."""
  return Study(
    name="thousand",
    goal="What does a trial cost that costs nothing?",
    function="benchmarks.study:objective",
    objective=Minimize("loss"),
    nuisance={"x": Linear(0.0, 1.0), "y": Log(1e-4, 1.0)},
    trials=THOUSAND,
  )


def main() -> None:
  """Print both tables."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--turns", type=int, default=1)
  turns = parser.parse_args().turns
  rows: list[str] = []
  measured: list[tuple[float, float, float]] = []
  for _ in range(turns):
    with tempfile.TemporaryDirectory() as folder:
      root = pathlib.Path(folder)
      ours, rows = study(root / "ours")
      cold = separate(root / "cold", cache=False)
      warm = separate(root / "warm", cache=True)
    measured.append((ours, cold, warm))
  print("| side | wall, s | study / it |")
  print("|---|---:|---:|")
  print(f"| study, cold cache | {statistics.median(ours for ours, _, _ in measured):.1f} | |")
  for side, index in (("16 processes, no cache", 1), ("16 processes, warm cache", 2)):
    ratio = statistics.median(turn[0] / turn[index] for turn in measured)
    print(f"| {side} | {statistics.median(turn[index] for turn in measured):.1f} | {ratio:.2f} |", flush=True)
  print()
  for row in rows:
    print(row)
  print()
  thousand()


def study(folder: pathlib.Path) -> tuple[float, list[str]]:
  """Run the study as a user does; return its wall time in seconds, and what else there is to say."""
  command = [
    sys.executable,
    "-m",
    "trialbook",
    "tune",
    "run",
    f"--study={__file__}",
    f"--dir={folder}",
    f"--workers={WORKERS}",
  ]
  seconds = timed(command, {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "study_cache")})
  trials = list(read_trials(folder).values())
  in_steps = sum(trial.summary["training_seconds"] for trial in trials)
  # Beyond the first trial of a worker, which also waits for its program.
  by_worker: dict[str, list[dict[str, float]]] = {}
  for trial in trials:
    attempt = dict(trial.attempts[-1])
    attempt["steps"] = trial.summary["training_seconds"]
    by_worker.setdefault(str(attempt["worker"]), []).append(attempt)
  further = []
  for attempts in by_worker.values():
    attempts.sort(key=lambda attempt: attempt["started"])
    for before, this in itertools.pairwise(attempts):
      further.append(this["finished"] - before["finished"] - this["steps"])
  programs = read_study(folder).sessions[-1]["programs"]
  efficiency = in_steps / (seconds * WORKERS)
  rows = [
    f"study efficiency: {in_steps:.1f} s in steps and evaluations / ({seconds:.1f} s x {WORKERS}) = {efficiency:.2f}",
    f"each further trial costs {sum(further) / len(further):.2f} s beyond its training and evaluation steps",
    f"programs compiled or read from the cache: {programs}",
  ]
  return seconds, rows


def separate(folder: pathlib.Path, *, cache: bool) -> float:
  """Return the seconds for the same trials as commands, two at a time, each on its core; with a cache, one that is
  filled."""
  planned = prepare(get_study())
  assert planned.config is not None

  def command(name: str, changes: Mapping[str, Any]) -> list[str]:
    settings = [f"--set={path}={value!r}" for path, value in {**CHANGES, **changes, "export": False}.items()]
    return [sys.executable, "-m", "trialbook", "train", f"--workdir={folder / name}", *settings]

  trials = planned.preview()
  environment = {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "warm_cache")}
  if cache:
    timed(command("first", trials[0].changes), environment, 0)
  else:
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
  started = time.perf_counter()
  running: dict[int, subprocess.Popen[bytes]] = {}
  for number, trial in enumerate(trials):
    core = number if number < WORKERS else wait_for_one(running)
    running[core] = start(command(str(trial.trial), trial.changes), environment, core)
  for process in running.values():
    check(process)
  return time.perf_counter() - started


def wait_for_one(running: dict[int, "subprocess.Popen[bytes]"]) -> int:
  """Return the core that is free next."""
  while True:
    for core, process in running.items():
      if process.poll() is not None:
        check(process)
        return core
    time.sleep(0.005)


def start(command: Sequence[str], environment: dict[str, str], core: int | None) -> "subprocess.Popen[bytes]":
  """Start a command on a core of its own."""
  pinned = [*(["taskset", "-c", str(core)] if core is not None else []), *command]
  return subprocess.Popen(pinned, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def check(process: "subprocess.Popen[bytes]") -> None:
  """Raise an error if a command failed; one whose trial diverged did its work."""
  _, errors = process.communicate()
  if process.returncode not in (0, 3):
    raise RuntimeError(f"{shlex.join(map(str, process.args))}\n{errors.decode()}")  # pyright: ignore


def timed(command: Sequence[str], environment: dict[str, str], core: int | None = None) -> float:
  """Return the wall time of a command in seconds."""
  started = time.perf_counter()
  check(start(command, environment, core))
  return time.perf_counter() - started


def thousand() -> None:
  """Measure a study without trainings: the time that the framework itself takes."""
  print("| a study of 1,000 trials | s |")
  print("|---|---:|")
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    file = root / "thousand.py"
    file.write_text("from benchmarks.study import get_thousand as get_study\n")
    tuning = [sys.executable, "-m", "trialbook", "tune"]
    run = [*tuning, "run", f"--study={file}", f"--dir={root / 'study'}", f"--workers={WORKERS}"]
    for what, command in (
      ("planned (`--dry_run`)", [*run, "--dry_run"]),
      ("run", run),
      ("resumed, nothing being left", run),
      ("listed", [*tuning, "list", str(root)]),
      ("best", [*tuning, "best", str(root / "study")]),
    ):
      print(f"| {what} | {timed(command, {}):.1f} |", flush=True)


if __name__ == "__main__":
  main()

"""The commands of the procedures, with their flags. Nothing here imports jax: help and mistakes are quick."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from trialbook.command_line import positive
from trialbook.paths import as_local_path, as_path


class Procedure(NamedTuple):
  """A command: what it does, its module in this room, and its own flags as (name, what `add_argument` takes)."""

  what: str
  module: str
  flags: tuple[tuple[str, dict], ...] = ()


def sizes(text: str) -> list[int]:
  """Return the whole numbers of "32,64,128", for `Parser.add_argument(type=sizes)`."""
  return [positive(one) for one in text.split(",")]


PROCEDURES = {
  "baseline": Procedure(
    "check whether the initial configuration is reasonable: better than chance, simple, fast (PB-07)",
    "baseline",
    (("--seeds", {"type": positive, "metavar": "N", "help": "trainings with different seeds (default 1)"}),),
  ),
  "batch-size": Procedure(
    "find the largest batch size that still raises throughput (PB-05)",
    "batch_size",
    (
      ("--smallest", {"type": positive, "metavar": "SIZE", "help": "first batch size (default 16); it is doubled"}),
      ("--largest", {"type": positive, "metavar": "SIZE", "help": "largest batch size (default: what fits)"}),
      ("--memory", {"type": float, "metavar": "GB", "help": "memory of each device (default: what it has)"}),
      ("--devices", {"type": positive, "metavar": "N", "help": "devices that share a batch (default 1)"}),
      ("--cores", {"type": positive, "metavar": "N", "help": "CPU cores (default 1, as a trial of a study has)"}),
    ),
  ),
  "steps-to-target": Procedure(
    "measure steps, time and device-seconds to a target for several batch sizes, each tuned again (PB-06)",
    "steps_to_target",
    (
      ("--sizes", {"type": sizes, "metavar": "N,N,…", "help": "batch sizes (default ¼ to 4 times the config's)"}),
      ("--target", {"type": float, "metavar": "VALUE", "help": "of the metric (default: by the smallest size)"}),
      ("--budget", {"type": positive, "metavar": "STEPS", "help": "steps of each training (default max_train_steps)"}),
      ("--trials", {"type": positive, "metavar": "N", "help": "trials of each size (default 20)"}),
      ("--seeds", {"type": positive, "metavar": "N", "help": "retrains of each size's best point (default 3)"}),
    ),
  ),
  "max-steps": Procedure(
    "find how many steps to train, by a sweep of constant learning rates (PB-60)",
    "max_steps",
    (
      ("--budget", {"type": positive, "metavar": "STEPS", "help": "steps of each training (default max_train_steps)"}),
      ("--metric", {"help": "training metric that shows the fit (default train_subset/error, or /loss)"}),
      ("--target", {"type": float, "metavar": "VALUE", "help": "value of it that counts as a perfect fit"}),
    ),
  ),
  "stability": Procedure(
    "judge whether training is stable at the best learning rate and right above it (PB-80)",
    "stability",
    (("--budget", {"type": positive, "metavar": "STEPS", "help": "steps of each training (default max_train_steps)"}),),
  ),
  "warmup": Procedure(
    "find the shortest warmup to a much larger learning rate, and compare it with the baseline (PB-82)",
    "warmup",
    (
      ("--factor", {"type": float, "help": "peak as a multiple of the smallest unstable learning rate (default 10)"}),
      ("--unstable", {"type": float, "metavar": "RATE", "help": "that learning rate, if it is known"}),
    ),
  ),
  "clip": Procedure("find a threshold to clip gradients at, and compare it with the baseline (PB-83)", "clip"),
  "adopt": Procedure(
    "decide whether a configuration replaces the baseline, by fresh seeds of both (PB-42)",
    "adopt",
    (
      ("--study", {"type": as_path, "metavar": "DIR", "help": "study whose best point is the candidate"}),
      ("--trial", {"type": int, "help": "trial of that study, instead of its best point"}),
      ("--candidate", {"type": as_path, "metavar": "FILE", "help": "config of the candidate, instead of a study"}),
      ("--seeds", {"type": positive, "metavar": "N", "help": "most seeds of each side (default 20)"}),
      ("--splits", {"type": positive, "metavar": "N", "help": "also train both on N other splits of the data"}),
      (
        "--second_search",
        {"action": "store_true", "help": "also run the study again with another search seed (study variance)"},
      ),
      ("--margin", {"type": float, "metavar": "GAIN", "help": "gain that the change must exceed (default 0)"}),
      ("--record", {"type": as_local_path, "metavar": "DIR", "help": "folder of the recorded baseline"}),
    ),
  ),
  "finish": Procedure(
    "search around the best of a study, train it again, and look at the test set once (PB-43)",
    "finish",
    (
      ("--study", {"type": as_path, "metavar": "DIR", "required": True, "help": "study whose best point to refine"}),
      ("--trials", {"type": positive, "metavar": "N", "help": "trials of the refined search (default 8 a dimension)"}),
      ("--search", {"choices": ("bayesian", "halton"), "help": "how to search there (default bayesian)"}),
      ("--search_seed", {"type": int, "metavar": "S", "help": "seed of that search (default 1)"}),
      (
        "--contenders",
        {
          "type": positive,
          "metavar": "N",
          "help": "best points of both searches of which fresh seeds choose one (default 3; 1: the best value decides)",
        },
      ),
      ("--seeds", {"type": positive, "metavar": "N", "help": "seeds of the final trainings (default 5)"}),
      ("--looks", {"type": as_local_path, "metavar": "FILE", "help": "record of looks at the test set"}),
      (
        "--fold_validation",
        {
          "action": "store_true",
          "help": "then train the best on training and validation examples together, for the steps that the retrains"
          " selected; only if nothing will be tuned on this data again (PB-43)",
        },
      ),
    ),
  ),
  "autopilot": Procedure(
    "tune a configuration by the whole playbook, unattended, within a budget",
    "autopilot",
    (
      ("--steps", {"type": positive, "metavar": "N", "help": "training steps in all"}),
      ("--hours", {"type": float, "metavar": "H", "help": "hours of work in all, instead; earlier calls count"}),
      ("--skip", {"metavar": "STAGE,…", "help": "leave out batch-size, max-steps, stability or adopt"}),
      ("--search", {"choices": ("halton", "bayesian"), "help": "search around the best in the end (default halton)"}),
      ("--search_seed", {"type": int, "metavar": "S", "help": "seed of all its searches (default the config's seed)"}),
    ),
  ),
}
"""The procedures by their commands. The flags are arguments of the module's `run`, by their names."""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
  """Add the commands by a function `(name, what, function) -> parser`."""
  for name, procedure in PROCEDURES.items():
    made = command(name, procedure.what, "procedures.commands:run")
    made.set_defaults(procedure=name)
    made.add_argument("--config", type=as_path, metavar="FILE", help="Python file with get_config(), or a config.json")
    made.add_argument(
      "--set", action="append", default=[], metavar="PATH=VALUE", help="change a field of the config; may be repeated"
    )
    made.add_argument("--dir", type=as_local_path, help="folder for all files of the procedure; created if absent")
    made.add_argument("--workers", type=positive, default=1, metavar="N", help="processes on this machine (default 1)")
    made.add_argument("--dry_run", action="store_true", help="print the first study and its cost, and exit")
    for flag, options in procedure.flags:
      made.add_argument(flag, **options)
  made = command("next", "say what to do after a study, and write the next study", "procedures.commands:next_", "dir")
  made.add_argument("--output", type=as_local_path, metavar="DIR", help="folder for the next study (default DIR/next)")
  what = "write the next round instead, with as many steps and the schedule transferred (PB-62, PB-63)"
  made.add_argument("--round", type=positive, metavar="STEPS", help=what)

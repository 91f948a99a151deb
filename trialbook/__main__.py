"""Train models, and tune them by the Deep Learning Tuning Playbook.

trialbook train --workdir=runs/first --set optimizer.learning_rate=0.05
trialbook tune run --study=experiments/studies/digits_optimizer.py --dir=runs/optimizer --workers=2
trialbook tune report runs/optimizer
"""

import importlib
import sys

from trialbook import __version__, errors
from trialbook.command_line import leave, print_problems
from trialbook.import_attribute import search_current_directory
from trialbook.naming import nearest

COMMANDS = {
  "new": ("trialbook.new_project:main", "write a folder with a model, a config and a study of your own, to start from"),
  "train": ("trialbook.trainer.flags:train", "train one model"),
  "evaluate": ("trialbook.trainer.flags:evaluate", "evaluate a checkpoint of a trained model"),
  "export": ("trialbook.trainer.flags:export", "export a checkpoint as files that run without trialbook"),
  "profile": ("trialbook.trainer.flags:profile", "show where the time of a training went, and what to change"),
  "tune": ("trialbook.tuning.flags:main", "run, report, compare and import studies of many trainings"),
  "launch": ("trialbook.launch.flags:main", "run a command on several hosts, and restart it if that helps"),
  "data": ("trialbook.input_pipeline.flags:main", "prepare a dataset on this machine"),
}
"""Name -> (function of its arguments that returns the exit code, what it does)."""


def main(arguments: list[str] | None = None) -> int:
  """Run a command with its arguments; return its exit code."""
  arguments = sys.argv[1:] if arguments is None else arguments
  if not arguments or arguments[0] in ("--help", "-h", "help"):
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    last = "trialbook COMMAND --help lists the flags of a command."
    text = "\n".join(["usage: trialbook COMMAND ...", "", f"{__doc__}", *lines, "", last])
    print(text, file=sys.stdout if arguments else sys.stderr)
    return errors.DONE if arguments else errors.USER_MISTAKE
  if arguments[0] == "--version":
    print(__version__)
    return errors.DONE
  name, *rest = arguments
  if name not in COMMANDS:
    return print_problems("trialbook", [f"unknown command {name!r}{nearest(name, COMMANDS)}"])
  search_current_directory()
  module, _, function = COMMANDS[name][0].partition(":")
  return getattr(importlib.import_module(module), function)(rest)


def console() -> None:
  """Run the command that the process was started with, and end it."""
  # A name of a file need not be UTF-8, and is printed all the same.
  sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
  try:
    code = main()
  except BrokenPipeError:
    # The reader of the output has gone, as in `trialbook tune list runs | head -3`.
    code = errors.DONE
  leave(code)


if __name__ == "__main__":
  console()

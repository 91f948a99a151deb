"""A worker of a study on this machine: one process that runs trial after trial, so that a program is compiled once.

It is started by the coordinator (`START`), which it talks to through a file descriptor, and dies with it.
"""

import os
import signal
import sys
from multiprocessing.connection import Connection

from trialbook.paths import as_path

START = """
import json, os, sys
sys.path[:] = json.loads(os.environ.pop("TRIALBOOK_PATH"))
from trialbook.tuning.execution.worker import main
sys.exit(main())
"""
"""The program of the process; the study's folder and the descriptor are its arguments.

It imports what its coordinator would, from the same places.
"""


def main() -> int:
  """Run the tasks that the coordinator sends until it closes the connection."""
  study, talk = as_path(sys.argv[1]), Connection(int(sys.argv[2]))
  if cores := os.environ.get("TRIALBOOK_CORES"):
    # Before anything counts them: XLA cuts reductions by the number of cores that it sees.
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
  # Ctrl-C at a terminal reaches the whole group; it is for the coordinator to decide.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  import jax

  from trialbook.errors import TryAgainError, UserError
  from trialbook.trainer import Programs
  from trialbook.tuning.execution.training import measure
  from trialbook.tuning.execution.trial import guard_for, run_trial
  from trialbook.tuning.records import read_study, trial_folder

  # Where the devices are others, these are not used.
  jax.config.update("jax_num_cpu_devices", int(os.environ["TRIALBOOK_LOCAL_DEVICES"]))
  programs = Programs(capacity=32)
  is_training = read_study(study).config is not None
  talk.send({"ready": os.getpid()})
  while True:
    try:
      task = talk.recv()
    except EOFError:
      return 0
    try:
      if is_training and (found := jax.local_device_count()) != (wanted := int(os.environ["TRIALBOOK_LOCAL_DEVICES"])):
        raise UserError(f"devices_per_trial = {wanted}: a worker sees {found} {jax.default_backend()} devices")
      if "measure" in task:
        talk.send({"cost": measure(study, task["measure"], programs)})
        continue
      # What a run's record names as its command.
      sys.orig_argv = ["python", "-m", "trialbook", "tune", "trial", str(study), str(task["trial"])]
      with guard_for(study) as guard:
        record = run_trial(study, trial_folder(study, task["trial"]), programs, guard)
        guard.leave(0, record.state)
      talk.send({"trial": task["trial"], "state": record.state, "programs": programs.compilations["train_step"]})
    except TryAgainError as error:
      talk.send({"lost": str(error), **task})
    except UserError as error:
      talk.send({"problems": error.problems, **task})

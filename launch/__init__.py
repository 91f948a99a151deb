"""Starting the processes of a job, watching them, and starting them again where that helps.

from trialbook.launch import run_local
code = run_local(["-m", "trialbook", "train", "--workdir=runs/first"], hosts=2, devices_per_host=2)
"""

from trialbook.launch import slurm
from trialbook.launch.budgets import Restarts
from trialbook.launch.job_exit import JobExit, job_exit
from trialbook.launch.local import run_local
from trialbook.launch.watch import Patience

__all__ = ["JobExit", "Patience", "Restarts", "job_exit", "run_local", "slurm"]

if __name__ != "trialbook.launch":
  # A second copy of every module would be loaded otherwise.
  raise ImportError(f"{__name__} is imported as trialbook.launch; the command is `trialbook launch`")

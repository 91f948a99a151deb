"""Starting the processes of a job, watching them, and starting them again where that helps.

from launch import run_local
code = run_local(["-m", "trainer", "--workdir=runs/first"], hosts=2, devices_per_host=2)
"""

from launch import slurm
from launch.endings import JobExit, job_exit
from launch.local import run_local
from launch.supervisor import Restarts
from launch.watch import Patience

__all__ = ["JobExit", "Patience", "Restarts", "job_exit", "run_local", "slurm"]

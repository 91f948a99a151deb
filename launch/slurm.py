"""Commands as jobs of a Slurm cluster: submitted as one array, asked about, cancelled.

from trialbook.launch import slurm
command = ["-m", "trialbook", "train", "--workdir=runs/a"]
jobs = slurm.submit([command], "runs/slurm", slurm.SlurmOptions(hosts=2), "first")
slurm.states(jobs)  # {"17": JobState(phase="running", code=None, word="RUNNING", reason="None")}

Each host of a job is one process, which jax's Slurm detection finds. What it has to be: safe to start again. Slurm
starts a job again when a node fails or it is preempted, and the job itself does when it exits with 75; all come back
under the same id, and rarely a job runs twice. SIGTERM comes `SlurmOptions.seconds_to_save` before the time limit, and
the cluster's KillWait (30 s by default) before a preemption or a cancellation ends the job.
"""

import contextlib
import dataclasses
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence

from trialbook import errors
from trialbook.errors import UserError
from trialbook.launch.slurm_states import JobState, SlurmUnavailableError, cancel, require, states
from trialbook.paths import as_path
from trialbook.trainer.hosts import secret

__all__ = ["JobState", "SlurmOptions", "SlurmUnavailableError", "cancel", "states", "submit"]

# Slurm may send the signal before the time limit by so much too early (sbatch(1), --signal).
_EARLY_SECONDS = 60
# Parameters of sbatch that a job could not do without as we set them.
_OURS = {"array", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue", "signal"}
# What the controller says when it is being restarted, or has too much to do.
_UNAVAILABLE = ("unable to contact", "timed out", "standby", "zero bytes", "temporarily")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmOptions:
  """The resources that each job asks of the cluster, and how many jobs run at a time.

  Attributes:
    hosts: number of nodes, with one process on each.
    cores: of each host.
    gpus: of each host.
    memory: of each host, such as "16G"; None: the cluster's default.
    minutes: time limit of a job from each start. A job that exits with 75 when it is near comes back with a new one.
    partition: where it waits; None: the cluster's default.
    account: the account that is charged; None: the user's default.
    max_parallel: how many jobs of one submission may run at a time; None: all.
    setup: lines of bash that come before the command on the first host, such as "module load cuda".
    sbatch: further parameters of sbatch: {"qos": "low", "exclusive": True}.
    seconds_to_save: how long before the time limit SIGTERM comes; by Slurm's clock it may be a minute more.
    max_requeues: after how many restarts, for whatever cause, a job that exits with 75 has ended.

  Raises:
    UserError: for values that Slurm would refuse, or that would end a job before it can do anything.
  """

  hosts: int = 1
  cores: int = 1
  gpus: int = 0
  memory: str | None = None
  minutes: int = 60
  partition: str | None = None
  account: str | None = None
  max_parallel: int | None = None
  setup: Sequence[str] = ()
  sbatch: Mapping[str, str | int | bool] = dataclasses.field(default_factory=dict)
  seconds_to_save: int = 60
  max_requeues: int = 100

  def __post_init__(self):
    lowest = {"hosts": 1, "cores": 1, "gpus": 0, "seconds_to_save": 1, "max_requeues": 0}
    if self.max_parallel is not None:
      lowest["max_parallel"] = 1
    problems = [
      f"{name} is {getattr(self, name)}; it must be at least {limit}"
      for name, limit in lowest.items()
      if getattr(self, name) < limit
    ]
    if self.minutes <= (too_short := (self.seconds_to_save + _EARLY_SECONDS) // 60):
      problems.append(
        f"minutes is {self.minutes}; SIGTERM comes {self.seconds_to_save} s before the time limit, or up to a minute"
        f" earlier, so minutes must be at least {too_short + 1}"
      )
    if taken := sorted(_OURS & {name.replace("_", "-") for name in self.sbatch}):
      problems.append(f"sbatch has {', '.join(taken)}, which trialbook sets itself; leave it out")
    if isinstance(self.setup, str):
      problems.append("setup is a string; it must be a list of lines")
    if problems:
      raise UserError(problems)


def submit(
  commands: Sequence[Sequence[str]], folder: str | os.PathLike[str], options: SlurmOptions, name: str
) -> list[str]:
  """Submit commands as one job array.

  Args:
    commands: of each job, the arguments for this Python's interpreter, such as
      `["-m", "trialbook", "train", "--workdir=runs/first"]`. It is run in this process's working
      directory with its environment, on each host of the job.
    folder: on a file system that the nodes share; made if absent. Of each host it gets what it prints,
      `JOB_HOST_log.out` and `JOB_HOST_log.err`, which are continued when a job is started again.
    options: what each job asks for.
    name: of the jobs, in Slurm's lists.

  Returns:
    The ids of the jobs, in the order of the commands: "17_0", "17_1", ...; "17" if it is a single one.

  Raises:
    UserError: if there is no Slurm here, or it refuses the jobs.
    SlurmUnavailableError: if the controller does not answer. It may yet have taken the jobs.
  """
  if not commands:
    return []
  submitit = _submitit()
  require("sbatch", "srun")
  executor = submitit.SlurmExecutor(as_path(folder))
  executor.update_parameters(
    **{key: value for key, value in _parameters(options, name, len(commands)).items() if value is not None}
  )
  with _outside_of_jobs(), _with_secret():
    try:
      with executor.batch():
        # The process *becomes* the command, so Slurm's signals reach it and its exit code is the job's; submitit's
        # own handlers, which would swallow SIGTERM, are gone with its process.
        jobs = [executor.submit(os.execv, sys.executable, [sys.executable, "-u", *command]) for command in commands]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
      if any(sign in str(error).lower() for sign in _UNAVAILABLE):
        raise SlurmUnavailableError(str(error)) from error
      raise UserError(f"Slurm refused the jobs: {error}") from error
  return [job.job_id for job in jobs]


def _parameters(options: SlurmOptions, name: str, count: int) -> dict[str, object]:
  """Return the parameters of submitit's executor; None is left to the cluster."""
  return {
    "job_name": name,
    "nodes": options.hosts,
    "ntasks_per_node": 1,
    "cpus_per_task": options.cores,
    "gpus_per_node": options.gpus or None,
    "mem": options.memory,
    "time": options.minutes,
    "partition": options.partition,
    "account": options.account,
    "array_parallelism": options.max_parallel or count,
    "setup": [*options.setup],
    "teardown": _come_back(options.max_requeues),
    # Since 22.05 srun does not take the number of cores from the job. A host that leaves a moment before the lead
    # has committed the checkpoint must not take it away, whatever is the cluster's default.
    "srun_args": [f"--cpus-per-task={options.cores}", "--kill-on-bad-exit=0"],
    "additional_parameters": {
      "requeue": True,
      # To the hosts, not to the shell that waits for them.
      "signal": f"TERM@{options.seconds_to_save}",
      **options.sbatch,
    },
  }


def _come_back(limit: int) -> list[str]:
  """Return lines of bash after the command: a job that exited with 75 queues itself again.

  The shell is not there to do so where Slurm ended the job, by a cancellation or otherwise: it had SIGTERM, too.
  """
  # The id of an array's last job alone is also that of the array: with it, all would be queued again.
  job = '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"'
  return [
    "code=$?",
    f'if [ "$code" -eq {errors.TRY_AGAIN} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {limit} ]; then',
    f"  scontrol requeue {job}",
    "fi",
    'exit "$code"',
  ]


def _submitit() -> types.ModuleType:
  try:
    import submitit
    import submitit.core.utils
  except ImportError as error:
    raise UserError(f"submitting jobs needs submitit ({error}); run pip install 'trialbook[slurm]'") from error
  return submitit


@contextlib.contextmanager
def _with_secret() -> Iterator[None]:
  """Put a new secret for the hosts of the jobs into the environment, which sbatch hands on, while this is open."""
  before = os.environ.get(secret.VARIABLE)
  os.environ[secret.VARIABLE] = secret.new_secret()
  try:
    yield
  finally:
    del os.environ[secret.VARIABLE]
    if before is not None:
      os.environ[secret.VARIABLE] = before


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
  """Make the environment as if this process were not in a job itself, while this is open.

  sbatch hands on what is in it, and Slurm does not set every variable anew: a job would take over the number of
  processes, the memory or the GPUs of the one that it was submitted from.
  """
  kept = ("SLURM_CONF", "SLURM_JWT")
  hidden = {
    name: value
    for name, value in os.environ.items()
    if name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and not name.startswith(kept)
  }
  for name in hidden:
    del os.environ[name]
  try:
    yield
  finally:
    os.environ.update(hidden)

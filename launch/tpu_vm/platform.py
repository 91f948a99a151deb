"""Slices of Cloud TPU as the platform of a job: requested, waited for, reached, told to be gone, and given back."""

import concurrent.futures
import time
from collections.abc import Callable
from typing import TypeVar

from trialbook import errors
from trialbook.errors import TryAgainError, UserError
from trialbook.launch.job_exit import JobExit
from trialbook.launch.remote.platform import LeavingError, LostError, Machines, StoppedError, wait
from trialbook.launch.remote.records import JobRecord, job_of_text
from trialbook.launch.remote.ssh_hosts import OPTIONS, SshHosts
from trialbook.launch.tpu_vm import queued_resources
from trialbook.launch.tpu_vm.gcloud import GcloudError, GcloudUnavailableError
from trialbook.launch.tpu_vm.lives import LivesFile
from trialbook.launch.tpu_vm.queued_resources import Node, Resource
from trialbook.launch.watch import Events

T = TypeVar("T")

_READY_SECONDS = 900.0
"""How long slices that were granted may take until they are ready."""
_API_SECONDS = 1800.0
"""How long the API may be unreachable while nothing runs."""
_STARTING = frozenset(("CREATING", "STARTING", "RESTARTING", "REPAIRING", "REIMAGING", "STATE_UNSPECIFIED", ""))
_RELEASE_TRIES, _RELEASE_SECONDS = 5, 5.0


class TpuVm:
  """The slices of a job.

  Args:
    job: whose they are.
    lives: where their time is counted.
    is_stopped: returns whether somebody stopped the job, so that no slices may be requested any more.
    events: where a signal to the launcher appears.
    seconds: between two questions to the API while it is waited for.
    queue_seconds: how long slices are waited for.
    say: reports to a person.
  """

  tells = True

  def __init__(
    self,
    job: JobRecord,
    lives: LivesFile,
    is_stopped: Callable[[], bool],
    events: Events,
    seconds: float,
    queue_seconds: float,
    say: Callable[[str], None],
  ):
    self._job, self._lives, self._is_stopped, self._events = job, lives, is_stopped, events
    self._seconds, self._queue_seconds, self._say = seconds, queue_seconds, say
    # Nothing is deleted that another has made.
    self._is_ours = False

  def acquire(self) -> SshHosts:
    """Return the hosts of the slices, in their order, once each answers; request the slices if there are none.

    Raises:
      LostError: if they failed or were taken away.
      SignalError, GivenUpError: if a signal came.
      UserError: if the API refuses.
      TryAgainError: if slices were not granted in time.
      LeavingError: if the API is not reached.
    """
    resource = self._granted()
    nodes = self._ready(resource)
    self._lives.seen(nodes)
    tpu = self._job["tpu"]
    interrupted = lambda: not self._events.empty()  # noqa: E731
    try:
      with concurrent.futures.ThreadPoolExecutor(len(nodes)) as pool:
        found = list(pool.map(lambda node: queued_resources.ssh_commands(node, tpu, interrupted), nodes))
    except (GcloudError, GcloudUnavailableError) as error:
      machines = self.machines()
      if machines.lost:
        raise LostError(machines.lost.reason, preempted=machines.lost.preempted) from None
      raise LostError(f"a host cannot be reached by ssh: {error}", preempted=False) from None
    # The command of gcloud is: ssh -T OPTIONS USER@HOST.
    commands = [[*command[:-1], *OPTIONS, command[-1]] for commands in found for command in commands]
    names = [f"host {index} of {node.name}" for node in nodes for index in range(len(node.addresses))]
    return SshHosts(commands, names, interrupted)

  def machines(self) -> Machines:
    """Return what the API says of the slices now."""
    tpu = self._job["tpu"]
    try:
      resource = queued_resources.describe(self._job["name"], tpu)
      granted = resource is not None and resource.state == queued_resources.GRANTED
      nodes = [queued_resources.node(name, tpu) for name in resource.nodes] if resource and granted else []
    except (GcloudError, GcloudUnavailableError, UserError) as error:
      self._say(f"the API says nothing of the slices: {error}")
      return Machines(False)
    self._lives.seen(nodes)
    reason = queued_resources.why_gone(resource, nodes)
    if reason is None:
      return Machines(True)
    was_taken = resource is None or resource.state != "FAILED"
    return Machines(True, JobExit(errors.TRY_AGAIN, None, reason, preempted=was_taken))

  def discard(self) -> None:
    """Delete the slices, and return when they are gone. Raises SignalError, UserError, LeavingError."""
    if not self._is_ours:
      return
    self._say(f"deleting queued resource {self._job['name']} with its slices")
    self._insist(lambda: queued_resources.delete(self._job["name"], self._job["tpu"]))
    self._insist(self._is_gone)

  def adopt(self, resource: Resource) -> "TpuVm":
    """Return this platform, with slices that are known to be the job's."""
    self._is_ours = _is_of(resource, self._job)
    return self

  def release(self) -> bool:
    """Delete the slices for good; return whether they are gone. A person is told how to delete them otherwise."""
    if not self._is_ours:
      return True
    name, tpu = self._job["name"], self._job["tpu"]
    self._say(f"deleting queued resource {name} with its slices")
    problem = ""
    for _ in range(_RELEASE_TRIES):
      try:
        queued_resources.delete(name, tpu)
        if queued_resources.describe(name, tpu) is None:
          self._say("nothing of the job is allocated any more")
          return True
        problem = "it is still there"
      except (GcloudError, GcloudUnavailableError, UserError) as error:
        problem = str(error)
      time.sleep(_RELEASE_SECONDS)
    command = queued_resources.delete_command(name, tpu)
    self._say(f"IT IS STILL ALLOCATED, AND PAID FOR: {name} was not deleted ({problem}); run {command}")
    return False

  def _granted(self) -> Resource:
    """Return the queued resource once it is granted."""
    name, tpu = self._job["name"], self._job["tpu"]
    said, deadline = "", time.monotonic() + self._queue_seconds
    while True:
      resource = self._insist(lambda: queued_resources.describe(name, tpu))
      if resource is None:
        if self._is_stopped():
          raise StoppedError
        self._create()
        continue
      self._is_ours = _is_of(resource, self._job)
      if not self._is_ours:
        raise UserError(f"queued resource {name} is there, and is not of this job; choose another --name")
      if resource.state != said:
        said = resource.state
        self._say(f"queued resource {name} is {said}")
      if resource.state == queued_resources.GRANTED:
        return resource
      if resource.state not in queued_resources.WAITING | {"DELETING"}:
        reason = f"queued resource {name} is {resource.state}{f': {resource.reason}' if resource.reason else ''}"
        if "quota" in resource.reason.lower():
          raise UserError(f"{reason}. Ask for quota, or for a smaller or another type")
        raise LostError(reason, preempted=resource.state != "FAILED")
      if time.monotonic() > deadline:
        raise TryAgainError(f"queued resource {name} was {said} for {self._queue_seconds / 3600:g} h; it is given up")
      wait(self._events, self._seconds)

  def _create(self) -> None:
    tpu = self._job["tpu"]
    count = f"{tpu['slices']} slices" if tpu["slices"] > 1 else "a slice"
    self._say(f"requesting {count} of {tpu['accelerator_type']} ({tpu['capacity']}) in {tpu['zone']}")
    # Whether or not its answer arrives, the request may.
    self._is_ours = True
    try:
      queued_resources.create(self._job)
    except GcloudError as error:
      if error.status == "ALREADY_EXISTS":
        return
      self._is_ours = False
      if error.status == "RESOURCE_EXHAUSTED" and "quota" not in str(error).lower():
        raise LostError(f"there is no capacity: {error}", preempted=False) from None
      raise UserError(f"Cloud TPU refuses the request: {error}") from None
    except UserError:
      self._is_ours = False
      raise
    except GcloudUnavailableError as error:
      self._say(f"it is not known whether the request was received: {error}")
      wait(self._events, self._seconds)

  def _ready(self, resource: Resource) -> list[Node]:
    """Return the slices once they are ready."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
      nodes: list[Node] = []
      for name in resource.nodes:
        found = self._insist(lambda name=name: queued_resources.node(name, self._job["tpu"]))
        if found is None or found.state not in _STARTING | {"READY"}:
          raise LostError(f"slice {name} is {'gone' if found is None else found.state}", preempted=True)
        nodes.append(found)
      problems = [_problem(node) for node in nodes]
      if not any(problems):
        return nodes
      if time.monotonic() > deadline:
        why = "; ".join(filter(None, problems))
        raise LostError(f"{why}, {_READY_SECONDS:g} s after it was granted", preempted=False)
      wait(self._events, self._seconds)

  def _is_gone(self) -> bool:
    while queued_resources.describe(self._job["name"], self._job["tpu"]) is not None:
      wait(self._events, self._seconds)
    return True

  def _insist(self, ask: Callable[[], T]) -> T:
    """Return the API's answer, however often it has to be asked."""
    deadline = time.monotonic() + _API_SECONDS
    while True:
      try:
        return ask()
      except GcloudError as error:
        raise UserError(f"Cloud TPU refuses: {error}") from None
      except GcloudUnavailableError as error:
        if time.monotonic() > deadline:
          # A job may run there, so it is left as it is.
          self._say(f"the API was not reached for {_API_SECONDS / 60:g} minutes: {error}")
          raise LeavingError from None
        self._say(f"the API does not answer, and is asked again: {error}")
        wait(self._events, self._seconds)


def _problem(node: Node) -> str:
  if node.state != "READY":
    return f"slice {node.name} is {node.state or 'of no state'}"
  return f"slice {node.name} is {node.health}" if node.health.startswith(("UNHEALTHY", "TIMEOUT")) else ""


def _is_of(resource: Resource, job: JobRecord) -> bool:
  try:
    return resource.job is not None and job_of_text(resource.job, "it") == job
  except UserError:
    return False

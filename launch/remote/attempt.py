"""One attempt of a job on other machines: its hosts are started, or found running, and followed to their end."""

import base64
import pathlib
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from trialbook import errors, files
from trialbook.launch.job_exit import JobExit, describe, signal_of
from trialbook.launch.processes import HostEnd
from trialbook.launch.remote import agent
from trialbook.launch.remote.calls import GivenUpError
from trialbook.launch.remote.host_output import HostOutput
from trialbook.launch.remote.platform import LeavingError, LostError, Platform, SignalError, StoppedError, wait
from trialbook.launch.remote.records import JobRecord
from trialbook.launch.remote.shipping import Archive
from trialbook.launch.remote.ssh_hosts import AgentError, Answer, SilentError, SshHosts
from trialbook.launch.supervisor import Attempt
from trialbook.launch.watch import Events, Patience
from trialbook.trainer.hosts.secret import VARIABLE, new_secret

SILENCE_SECONDS = 180.0
"""How long a host may be silent while the platform says that its machine is there."""
# How long the platform may take to say why hosts received SIGTERM.
_SETTLE_SECONDS = 45.0
_LOOK_SECONDS, _SHIP_SECONDS, _PREPARE_SECONDS, _START_SECONDS = 90.0, 900.0, 3600.0, 60.0
_POLL_SECONDS, _STOP_SECONDS, _RETRY_SECONDS = 60.0, 60.0, 5.0


class RemoteJob:
  """The attempts of a job on the machines of a platform.

  Args:
    job: its description.
    platform: where its machines come from.
    archive: returns its code, which is asked for only if a host does not have it.
    folder: of the launcher, for the output of the hosts.
    exits: where the ends that hosts noted are put.
    events: where a signal to the launcher appears.
    patience: the time that hosts get to exit.
    poll_seconds: between two questions to the hosts.
    say: reports to a person.
    detach: whether to leave the job as soon as it runs.
  """

  def __init__(
    self,
    job: JobRecord,
    platform: Platform,
    archive: Callable[[], Archive],
    folder: pathlib.Path,
    exits: pathlib.Path,
    events: Events,
    patience: Patience,
    poll_seconds: float,
    say: Callable[[str], None],
    *,
    detach: bool = False,
  ):
    self._detach = detach
    self._job, self._platform, self._archive = job, platform, archive
    self._folder, self._exits, self._events = folder, exits, events
    self._patience, self._poll_seconds, self._say = patience, poll_seconds, say
    self._may_attach = True
    self._outputs: list[HostOutput] = []

  def attempt(self, number: int) -> Attempt:
    """Start the hosts, or find them running if this launcher has just begun, and follow them until they have ended.

    Raises:
      LeavingError: if the launcher is to end, and the job goes on.
      UserError: if the job cannot run there.
    """
    attach, self._may_attach = self._may_attach, False
    hosts: SshHosts | None = None
    self._outputs = []
    try:
      hosts = self._platform.acquire()
      hosts, looks = self._look(hosts)
      attempts = {look["attempt"] for look in looks}
      token = attempts.pop() if len(attempts) == 1 and attach else None
      if token is None:
        token = self._start(hosts, looks, number)
      else:
        self._say(f"the job is there; following attempt {token}")
      if self._detach:
        raise LeavingError
      return self._follow(hosts, token)
    except GivenUpError:
      number_of_signal = self._events.get()
      assert isinstance(number_of_signal, signal.Signals)
      return self._on_signal(hosts, number_of_signal)
    except SignalError as error:
      return self._on_signal(hosts, error.number)
    except SilentError as error:
      return self._unusable(self._platform.machines().lost or JobExit(errors.TRY_AGAIN, None, str(error)))
    except StoppedError:
      return Attempt([], passed=signal.SIGINT, lost=JobExit(errors.INTERRUPTED, None, "somebody stopped the job"))
    except LostError as error:
      return self._unusable(error.verdict)
    except AgentError as error:
      # What a host cannot do at all, another machine of its kind cannot either.
      raise errors.UserError(f"the hosts cannot run the job: {error}") from error

  def _unusable(self, verdict: JobExit) -> Attempt:
    self._say(verdict.reason)
    self._platform.discard()
    return Attempt([], lost=verdict, platform_tells=self._platform.tells)

  def _on_signal(self, hosts: SshHosts | None, number: signal.Signals) -> Attempt:
    if number != signal.SIGINT:
      raise LeavingError
    if hosts is not None:
      hosts = hosts.uninterrupted()
      self._say(f"ending the job; its hosts have {self._patience.grace:g} s to save")
      self._stop(hosts, self._patience.grace)
      if self._outputs:
        self._read(self._poll(hosts))
    self._close_outputs()
    return Attempt([], passed=number, lost=JobExit(errors.INTERRUPTED, None, "Ctrl-C"))

  def _look(self, hosts: SshHosts) -> tuple[SshHosts, list[dict[str, Any]]]:
    """Return the hosts as the machines themselves say that they follow one another, and what is there."""
    deadline = time.monotonic() + SILENCE_SECONDS
    while True:
      try:
        looks = hosts.ask_all(self._request("look"), _LOOK_SECONDS)
        break
      except SilentError as error:
        # A job may run there that a lost connection must not end.
        if self._platform.machines().lost or time.monotonic() > deadline:
          raise
        self._say(f"{error}; asking again")
        wait(self._events, _RETRY_SECONDS)
    known = [look["tpu"] for look in looks]
    if not all("WORKER_ID" in ids for ids in known):
      return hosts, looks
    places = [(int(ids.get("MEGASCALE_SLICE_ID", 0)), int(ids["WORKER_ID"])) for ids in known]
    order = sorted(range(len(hosts)), key=lambda index: places[index])
    return hosts.in_order(order), [looks[index] for index in order]

  def _start(self, hosts: SshHosts, looks: Sequence[dict[str, Any]], number: int) -> str:
    """Start the job's processes on all hosts, and return the name of this attempt."""
    job = self._job
    if any(look["state"] == "running" or look["busy"] for look in looks):
      self._say("ending what is left of an earlier attempt")
    for name, left in zip(hosts.names, self._stop(hosts, 0.0), strict=True):
      if isinstance(left, Exception):
        raise SilentError(f"{name}: {left}")
      if remains := [*left["left"], *left["busy"]]:
        raise LostError(f"{name} is dirty: {'; '.join(remains)}", preempted=False)
    if any(f"code-{job['digest']}" not in look["code"] for look in looks):
      archive = self._archive()
      self._say(f"shipping {len(archive.content) / 1e6:.1f} MB of code to {len(hosts)} {_hosts(len(hosts))}")
      hosts.ask_all(self._request("ship"), _SHIP_SECONDS, archive.content)
    if not job["python"]:
      self._say("making the environment, unless it is there")
      hosts.ask_all(self._request("prepare", lines=job["setup"]), _PREPARE_SECONDS)
    token = secrets.token_hex(4)
    shared = {**job["variables"], VARIABLE: new_secret(), "TRIALBOOK_ATTEMPT": str(number)}
    if len(hosts) > 1:
      address = looks[0]["address"]
      address = f"[{address}]" if ":" in address else address
      shared |= {"TRIALBOOK_COORDINATOR": f"{address}:{job['port']}", "TRIALBOOK_HOST_COUNT": str(len(hosts))}
    fixed = {name: job[name] for name in ("python", "arguments")}
    places = [{"TRIALBOOK_HOST_INDEX": str(index)} if len(hosts) > 1 else {} for index in range(len(hosts))]
    requests = [self._request("start", attempt=token, variables={**shared, **place}, **fixed) for place in places]
    hosts.ask_all(requests, _START_SECONDS)
    self._say(f"attempt {number} runs on {len(hosts)} {_hosts(len(hosts))}, and needs this terminal no more")
    return token

  def _follow(self, hosts: SshHosts, token: str) -> Attempt:
    """Ask the hosts how they are until all have ended; end the others once one has failed."""
    self._outputs = [
      HostOutput(self._folder / "logs" / token / f"host_{index}.log", f"[host {index}] " if len(hosts) > 1 else "")
      for index in range(len(hosts))
    ]
    ends: dict[int, HostEnd] = {}
    silent: dict[int, float] = {}
    limit: float | None = None
    metadata_tell = False
    while True:
      answers = self._poll(hosts)
      more = self._read(answers)
      for index, answer in enumerate(answers):
        if isinstance(answer, Exception):
          silent.setdefault(index, time.monotonic())
          continue
        silent.pop(index, None)
        metadata_tell |= answer["preempted"]
        if answer["attempt"] != token:
          ends[index] = HostEnd(index, agent.LOST, time.time())
        elif answer["state"] == "ended":
          ends[index] = HostEnd(index, answer["code"], answer["time"])
      if more:
        continue
      if len(ends) == len(hosts):
        break
      if silent and (lost := self._lost(hosts, silent, answers)):
        return self._ended(ends, lost)
      if limit is None and (failed := [end for end in ends.values() if end.returncode]):
        limit, why = time.monotonic() + self._patience.grace, describe(failed[0].returncode)
        self._say(f"host {failed[0].host}: {why}; the others have {self._patience.grace:g} s to exit")
      if limit is not None and time.monotonic() > limit:
        self._say("they did not exit, and are ended")
        self._stop(hosts, self._patience.kill_after)
      wait(self._events, self._poll_seconds if limit is None else min(self._poll_seconds, 1.0))
    codes = [end.returncode for end in ends.values() if end.returncode]
    return self._ended(ends, self._why(codes, metadata_tell=metadata_tell) if codes else None)

  def _why(self, codes: Sequence[int], *, metadata_tell: bool) -> JobExit | None:
    """Return the platform's verdict on hosts that ended; it may be a while in coming after a SIGTERM."""
    if metadata_tell:
      reason = "the metadata of a machine say that it is preempted"
      return JobExit(errors.TRY_AGAIN, None, reason, preempted=True)
    asked = any(code == errors.TRY_AGAIN or signal_of(code) == signal.SIGTERM for code in codes)
    deadline = time.monotonic() + (_SETTLE_SECONDS if asked and self._platform.tells else 0.0)
    while (lost := self._platform.machines().lost) is None and time.monotonic() < deadline:
      wait(self._events, _RETRY_SECONDS)
    return lost

  def _ended(self, ends: dict[int, HostEnd], lost: JobExit | None) -> Attempt:
    self._close_outputs()
    if lost is not None:
      self._platform.discard()
    now = time.time()
    all_ends = [ends.get(index, HostEnd(index, agent.LOST, now)) for index in range(len(self._outputs))]
    return Attempt(all_ends, lost=lost, platform_tells=self._platform.tells)

  def _lost(self, hosts: SshHosts, silent: dict[int, float], answers: Sequence[Answer]) -> JobExit | None:
    """Return the verdict on hosts that are silent; None if they may answer again."""
    index, since = min(silent.items(), key=lambda item: item[1])
    reason = f"{hosts.names[index]} does not answer: {answers[index]}"
    machines = self._platform.machines()
    if not machines.known:
      # This machine may be offline, and the job goes on.
      silent.update(dict.fromkeys(silent, time.monotonic()))
    if machines.lost is None and time.monotonic() - since > SILENCE_SECONDS and machines.known:
      return JobExit(errors.TRY_AGAIN, index, reason)
    if machines.lost is None:
      self._say(reason)
    return machines.lost

  def _poll(self, hosts: SshHosts) -> list[Answer]:
    tells = self._platform.tells
    requests = [self._request("poll", offset=output.offset, metadata=tells) for output in self._outputs]
    return hosts.ask(requests, _POLL_SECONDS)

  def _read(self, answers: Sequence[Answer]) -> bool:
    """Take what hosts have printed, and what they noted about their ends; return whether there is more."""
    more = False
    for output, answer in zip(self._outputs, answers, strict=True):
      if isinstance(answer, Exception):
        continue
      output.add(base64.b64decode(answer["output"]))
      more |= output.offset < answer["size"]
      for name, record in answer["exits"].items():
        path = self._exits / pathlib.Path(name).name
        if not path.exists() or files.read_json(path) != record:
          files.write_json(path, record)
    return more

  def _close_outputs(self) -> None:
    for output in self._outputs:
      output.close()

  def _stop(self, hosts: SshHosts, grace: float) -> list[Answer]:
    return hosts.ask([self._request("stop", grace=grace)] * len(hosts), _STOP_SECONDS + grace)

  def _request(self, do: str, **more: Any) -> dict[str, Any]:
    job = self._job
    known = {name: job[name] for name in ("digest", "environment", "inside")}
    return {"do": do, "job": job["name"], **known, **more}


def _hosts(count: int) -> str:
  return "host" if count == 1 else "hosts"

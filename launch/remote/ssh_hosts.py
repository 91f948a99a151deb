"""Hosts that are reached by ssh: each is asked by the agent, all at the same time, and answers or is silent."""

import concurrent.futures
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.launch.remote import agent
from trialbook.launch.remote.calls import Interrupted, call, never

OPTIONS = (
  *("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "LogLevel=ERROR"),
  *("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"),
)
"""Options of ssh: nobody is asked for a password, and a host that is gone is noticed within a minute."""

_AT_A_TIME = 64
_FAILED = 255
"""Exit code of ssh where the connection failed."""
# The code of the agent comes first on the input, with its length before it.
_BOOTSTRAP = (
  "import sys;n=int(sys.stdin.buffer.readline());"
  'exec(compile(sys.stdin.buffer.read(n),"agent","exec"),{"__name__":"__main__"})'
)
_REMOTE = f"exec python3 -c '{_BOOTSTRAP}'"


class SilentError(Exception):
  """A host did not answer: it cannot be reached, or not in time. The message is the reason."""


class AgentError(Exception):
  """A host answered that it could not do what it was asked. The message is the reason."""


Answer = dict[str, Any] | SilentError | AgentError


class SshHosts:
  """The hosts of a job.

  Args:
    commands: for each host, ssh with its options and the destination; what it is to run is appended.
    names: of the hosts, for a person.
    interrupted: returns whether requests that are under way are to be given up.

  Attributes:
    names: of the hosts.
  """

  def __init__(self, commands: Sequence[Sequence[str]], names: Sequence[str], interrupted: Interrupted = never):
    self._commands, self.names, self._interrupted = commands, names, interrupted

  def __len__(self) -> int:
    return len(self._commands)

  def in_order(self, order: Sequence[int]) -> "SshHosts":
    """Return the hosts in another order, or some of them."""
    commands, names = [self._commands[index] for index in order], [self.names[index] for index in order]
    return SshHosts(commands, names, self._interrupted)

  def uninterrupted(self) -> "SshHosts":
    """Return the same hosts, whose answers are waited for."""
    return SshHosts(self._commands, self.names)

  def ask(self, requests: Sequence[Mapping[str, Any]], seconds: float, payload: bytes = b"") -> list[Answer]:
    """Send each host its request, and return the answers in their order.

    Args:
      requests: `do` names a function of the agent; `job` the job.
      seconds: how long an answer may take.
      payload: what follows the request.

    Raises:
      GivenUpError: if it was interrupted before all have answered.
    """
    with concurrent.futures.ThreadPoolExecutor(_AT_A_TIME) as pool:
      futures = [
        pool.submit(self._ask, command, request, payload, seconds)
        for command, request in zip(self._commands, requests, strict=True)
      ]
    return [future.result() for future in futures]

  def ask_all(
    self, request: Mapping[str, Any] | Sequence[Mapping[str, Any]], seconds: float, payload: bytes = b""
  ) -> list[dict[str, Any]]:
    """Send all hosts a request, or each its own, and return the answers.

    Raises:
      SilentError: naming the first host that did not answer.
      AgentError: naming the first host that could not do it.
    """
    requests = [request] * len(self) if isinstance(request, Mapping) else request
    found: list[dict[str, Any]] = []
    for name, answer in zip(self.names, self.ask(requests, seconds, payload), strict=True):
      if isinstance(answer, Exception):
        raise type(answer)(f"{name}: {answer}")
      found.append(answer)
    return found

  def _ask(self, command: Sequence[str], request: Mapping[str, Any], payload: bytes, seconds: float) -> Answer:
    code = pathlib.Path(agent.__file__).read_bytes()
    sent = b"%d\n" % len(code) + code + json.dumps(request).encode() + b"\n" + payload
    try:
      done = call([*command, "--", _REMOTE], seconds, self._interrupted, sent=sent)
    except TimeoutError:
      return SilentError(f"no answer to {request['do']!r} within {seconds:g} s")
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):
      if line.startswith(agent.MARK):
        answer = json.loads(line.removeprefix(agent.MARK))
        return AgentError(answer["error"]) if "error" in answer else answer
    said = (done.stderr or done.stdout).decode(errors="replace").strip()[-1000:]
    if done.returncode == _FAILED:
      return SilentError(f"ssh failed: {said}")
    return AgentError(f"it answered {request['do']!r} with exit code {done.returncode}: {said}")

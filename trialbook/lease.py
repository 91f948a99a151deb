"""Locks in an object store: an object that names its owner, who renews it while it lives.

It is created only if it is absent, and renewed, taken over and removed only in the generation that was last seen, so at
most one process has it. Its age is measured by the store's clock.
"""

import json
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from trialbook import object_store
from trialbook.errors import ConfigError, TryAgainError
from trialbook.object_store import StorePath, Version
from trialbook.store_client import ChangedObjectError

RENEW_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
"""Age at which another process may take a lock over: its owner has missed five renewals."""
_LOOK_SECONDS = 2.0


class Lease:
  """A lock that this process has, from `acquire` to `release`.

  Args:
    path: of the object.
    what: is locked, for messages.
  """

  def __init__(self, path: StorePath, what: str):
    self._path, self._what, self._generation = path, what, 0
    self._lost: str | None = None
    self._renewed, self._released, self._lock = time.monotonic(), threading.Event(), threading.Lock()
    self._owner = {**_this_process(), "id": uuid.uuid4().hex, "renewals": 0}

  def acquire(self) -> None:
    """Take the lock; of an owner that shows no sign of life, as soon as the lock has expired.

    Raises:
      ConfigError: naming the owner, if it lives.
    """
    while True:
      left = wait_for_owner(self._path, self._what)
      try:
        self._write(0 if left is None else left.generation)
        break
      except ChangedObjectError:
        continue  # Another process was quicker.
    threading.Thread(target=self._renew_until_released, daemon=True, name="lease").start()

  def check(self) -> None:
    """Raise ConfigError if another process has taken the lock, as it may if this one was suspended."""
    if time.monotonic() - self._renewed > EXPIRY_SECONDS:
      self._renew()
    if self._lost is not None:
      raise ConfigError(
        f"{self._what} was taken over by {self._lost}, since this process did not renew its lock for"
        f" {EXPIRY_SECONDS:g} s. What was saved is intact"
      )

  def release(self) -> None:
    """Give the lock up."""
    self._released.set()
    with self._lock:
      if self._lost is None:
        try:
          object_store.remove_version(self._path, self._generation)
        except (TryAgainError, OSError) as error:
          _warn("%s stays locked for %g s: %s", self._what, EXPIRY_SECONDS, error)

  def _write(self, generation: int) -> None:
    begun = time.monotonic()
    self._owner["renewals"] += 1  # No two contents are alike, so that an answer that was lost is recognized.
    self._generation = object_store.write_version(self._path, json.dumps(self._owner).encode(), generation)
    self._renewed = begun

  def _renew(self) -> None:
    with self._lock:
      if self._released.is_set() or self._lost is not None:
        return
      try:
        self._write(self._generation)
      except ChangedObjectError:
        there = object_store.read_version(self._path)
        self._lost = "another process" if there is None else _name(_owner(there))

  def _renew_until_released(self) -> None:
    while not self._released.wait(RENEW_SECONDS) and self._lost is None:
      try:
        self._renew()
      except (TryAgainError, OSError) as error:
        _warn("the lock of %s is not renewed for now: %s", self._what, error)


def wait_for_owner(path: StorePath, what: str) -> Version | None:
  """Return None if there is no lock, or one that was left behind, once that is certain.

  Of a process on this machine that is known at once. Of another one it takes until the lock expires.

  Raises:
    ConfigError: naming the owner, as soon as it shows a sign of life.
  """
  first: int | None = None
  while (there := object_store.read_version(path)) is not None:
    owner = _owner(there)
    lives = _lives(owner)
    if lives or first not in (None, there.generation):
      raise ConfigError(f"{what} is in use by process {_name(owner)}")
    if lives is False or object_store.now() - there.written > EXPIRY_SECONDS:
      return there
    if first is None:
      _warn("%s is locked by process %s; waiting for a sign of life", what, _name(owner))
    first = there.generation
    time.sleep(_LOOK_SECONDS)
  return None


def is_held(path: StorePath) -> bool:
  """Return whether a process has the lock, as far as that can be told at once."""
  there = object_store.read_version(path)
  if there is None:
    return False
  lives = _lives(_owner(there))
  return object_store.now() - there.written <= EXPIRY_SECONDS if lives is None else lives


def _this_process() -> dict[str, Any]:
  pid = os.getpid()
  return {"process": pid, "node": os.uname().nodename, "machine": _machine(), "started": _start_of(pid)}


def _machine() -> str:
  """Return what is the same for processes that see each other by their ids: boot, and namespace of ids."""
  try:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
  except OSError:
    return uuid.uuid4().hex  # Like none other, so that nothing is concluded.


def _start_of(pid: int) -> str | None:
  """Return when a process of this machine started, in the kernel's ticks; None if it is not there, or has ended."""
  try:
    # Behind the name in parentheses, which may hold anything.
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return None
  return None if fields[0] in "ZX" else fields[19]


def _lives(owner: Mapping[str, Any]) -> bool | None:
  """Return whether the owner of a lock lives; None if it is on another machine."""
  if owner.get("machine") != _machine():
    return None
  return _start_of(owner["process"]) == owner["started"]


def _owner(lock: Version) -> Mapping[str, Any]:
  try:
    found = json.loads(lock.content)
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _warn(text: str, *values: object) -> None:
  from absl import logging

  logging.warning(text, *values)


def _name(owner: Mapping[str, Any]) -> str:
  return f"{owner['process']} on {owner['node']}" if {"process", "node"} <= owner.keys() else "unknown"

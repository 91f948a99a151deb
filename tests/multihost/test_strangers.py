"""Strangers at the lead's port neither end a job nor delay it, whatever they send: 15 kinds, on real processes."""

import contextlib
import json
import os
import pathlib
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from forked import ROOT, Forked, ended, wait_for
from scripted import MARK

from trialbook import errors
from trialbook.launch.local import free_port
from trialbook.trainer.hosts.connection import REFUSED, Connection
from trialbook.trainer.hosts.secret import VARIABLE

SECRET = "known to the hosts of this job alone"
DELAY_SECONDS = 1.0
# Each host writes down for how long it took part in the meeting.
EXPERIMENT = f"""
import json, os, pathlib, sys, time
sys.path.insert(0, {str(ROOT / "tests" / "trainer")!r})
import tiny
from trialbook.trainer.hosts import channel

def timed(*arguments, meet=channel.meet):
  started = time.monotonic()
  met = meet(*arguments)
  pathlib.Path(__file__).with_name(f"met_{{arguments[1]}}").write_text(str(time.monotonic() - started))
  return met

channel.meet = timed

def get_config():
  return tiny.mlp(max_train_steps=4, evaluation__every_steps=2)
"""
HELLO = {"kind": "hello", "index": 1, "count": 2, "problem": None}
END = {"kind": "end", "code": 0, "cause": "all is done", "host": 1, "time": 0.0}


def line(**message: object) -> bytes:
  return json.dumps(message).encode() + b"\n"


def shouts(*parts: bytes) -> Callable[[socket.socket], None]:
  """Sends something, and stays."""

  def attack(made: socket.socket) -> None:
    made.sendall(b"".join(parts))
    while made.recv(2**16):
      pass

  return attack


def drips(made: socket.socket) -> None:
  for letter in b"trialbook 1 0123456789abcdef0123456789abcdef\n":
    made.sendall(bytes([letter]))
    time.sleep(0.3)


def floods(made: socket.socket) -> None:
  while True:
    made.sendall(b"trialbook 1 " + b"0" * 2**16)


def resets(made: socket.socket) -> None:
  made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def echoes(made: socket.socket) -> None:
  while data := made.recv(2**16):
    made.sendall(data)


def half_closes(made: socket.socket) -> None:
  made.sendall(b"trialbook 1 0123")
  made.shutdown(socket.SHUT_WR)
  while made.recv(2**16):
    pass


def rushes(made: socket.socket) -> None:
  """Comes again and again, as fast as it can, and keeps as many connections as the system allows it."""
  kept: list[socket.socket] = []
  try:
    while len(kept) < 150:
      kept.append(socket.create_connection(made.getpeername(), timeout=5))
    made.recv(2**16)
  finally:
    for connection in kept:
      connection.close()


def guesses(secret: bytes, **changes: object) -> Callable[[socket.socket], None]:
  """Greets as a host would that has another secret."""

  def attack(made: socket.socket) -> None:
    connection = Connection(made, secret, leads=False)
    while not connection.has_begun:
      if connection.receive() is None:
        return
    connection.send({**HELLO, **changes})
    made.recv(2**16)

  return attack


def recorded() -> bytes:
  """What a host of this very job sends to another lead."""
  with (
    socket.create_server(("127.0.0.1", 0)) as listening,
    socket.create_connection(listening.getsockname()) as ours,
    listening.accept()[0] as theirs,
  ):
    host = Connection(ours, SECRET.encode(), leads=False)
    Connection(theirs, SECRET.encode(), leads=True)
    assert host.receive() == []
    host.send(HELLO)
    ours.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: theirs.recv(2**16), b""))


ATTACKS: dict[str, tuple[int, Callable[[socket.socket], None]]] = {
  "an end with code 0": (4, shouts(line(**HELLO), line(**END), line(kind="tell", message=END))),
  "another count": (4, shouts(line(**{**HELLO, "count": 5}))),
  "another index": (4, shouts(line(**{**HELLO, "index": 7}))),
  "idle connections": (300, shouts()),
  "nested JSON": (4, shouts(b"trialbook 1 " + b"0" * 32 + b"\n" + b"[" * 60_000 + b"\n")),
  "a line without an end": (2, floods),
  "a byte now and then": (10, drips),
  "wrong proofs": (10, guesses(b"not what the hosts know", problem="a mistake")),
  "a greeting replayed": (8, shouts(recorded())),
  "an echo": (8, echoes),
  "other protocols": (8, shouts(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\xfe\xff\n")),
  "resets": (10, resets),
  "half closed": (10, half_closes),
  "the lead's own refusal": (4, shouts(b"trialbook 1 " + b"0" * 32 + b"\n", REFUSED)),
  "a rush": (4, rushes),
}
"""Name -> how many at once, and what each does with its connection, again and again."""


@contextlib.contextmanager
def under_attack(port: int, names: list[str], most: int) -> Iterator[None]:
  """Inside, strangers of these kinds come, `most` of a kind at most, and come again when they are dropped."""
  over, made = threading.Event(), set()

  def stranger(attack: Callable[[socket.socket], None]) -> None:
    while not over.wait(random.random() / 2):
      with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        made.add(connection)
        attack(connection)

  threads = [
    threading.Thread(target=stranger, args=(ATTACKS[name][1],), daemon=True)
    for name in names
    for _ in range(min(ATTACKS[name][0], most))
  ]
  for thread in threads:
    thread.start()
  try:
    yield
  finally:
    over.set()
    for connection in made:
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    for thread in threads:
      thread.join(10)


def attacked(folder: pathlib.Path, names: list[str], most: int = 1000) -> float:
  """Trains on two hosts under attack; returns the seconds of the meeting, once the second host was there."""
  folder.mkdir()
  experiment, port = folder / "experiment.py", free_port()
  experiment.write_text(EXPERIMENT)
  environment = {**os.environ, MARK: str(folder), VARIABLE: SECRET, "JAX_PLATFORMS": "cpu", "NPROC": "2"}
  command = ["-m", "trialbook", "train", f"--config={experiment}", f"--workdir={folder / 'run'}", "--host_count=2"]
  command += [f"--coordinator=127.0.0.1:{port}"]

  def start(index: int) -> Forked:
    return Forked([*command, f"--host_index={index}"], folder / f"output_{index}", environment=environment)

  with ended(start(0)) as lead:
    wait_for(lambda: lead.poll() is not None or is_listening(port))
    with under_attack(port, names, most), ended(start(1)) as other:
      codes = [lead.wait(), other.wait()]
  assert codes == [errors.DONE] * 2, lead.text() + other.text()
  assert json.loads((folder / "run" / "run.json").read_text())["status"] == "complete"
  assert "Traceback" not in lead.text() + other.text()
  if set(names) != {"resets"}:  # A connection that was reset at once may never be accepted.
    assert "a stranger at the coordinator's port, 127.0.0.1:" in lead.text()
  return float((folder / "met_1").read_text())


def is_listening(port: int) -> bool:
  wanted = f":{port:04X} 00000000:0000 0A"
  return wanted in pathlib.Path("/proc/net/tcp").read_text()


@pytest.mark.slow
def test_all_kinds_of_strangers_at_once_neither_end_a_job_nor_delay_it(tmp_path: pathlib.Path):
  # More would take the time of the processors from the hosts, which are on this machine too.
  seconds = attacked(tmp_path / "job", list(ATTACKS), most=40)
  assert seconds < DELAY_SECONDS


@pytest.mark.slow
@pytest.mark.evidence
def test_each_kind_of_strangers_neither_ends_a_job_nor_delays_it(tmp_path: pathlib.Path):
  for name in ATTACKS:
    seconds = attacked(tmp_path / name.replace(" ", "_"), [name])
    sys.stdout.write(f"| {name} | {ATTACKS[name][0]} | {seconds:.3f} |\n")
    assert seconds < DELAY_SECONDS, name

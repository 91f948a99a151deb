"""Hosts wait for each other where they say so."""

import concurrent.futures
import threading
from typing import Any, cast

from trialbook.trainer.hosts.channel import Channel
from trialbook.trainer.hosts.joining import Hosts


class Open:
  """A channel whose gatherings come to their end when the test says so."""

  def __init__(self):
    self.future: concurrent.futures.Future[list[Any]] = concurrent.futures.Future()

  def gather(self, name: str, value: Any, seconds: float) -> concurrent.futures.Future[list[Any]]:
    del name, value, seconds
    return self.future


def test_a_barrier_lets_nobody_pass_before_all_are_there():
  channel = Open()
  hosts = Hosts(index=0, count=2, channel=cast(Channel, channel))
  waiting = threading.Thread(target=hosts.barrier, args=("here",))
  waiting.start()
  waiting.join(0.2)
  assert waiting.is_alive(), "it did not wait for the other host"
  channel.future.set_result([None, None])
  waiting.join(20)
  assert not waiting.is_alive()

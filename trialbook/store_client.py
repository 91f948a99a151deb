"""Requests to Google Cloud Storage: the client of this process, what is tried again and for how long, and the errors.

The packages for it are imported when the first request is made.
"""

# The packages are an extra.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import contextlib
import errno
import functools
import os
import time
from collections.abc import Iterator
from typing import Any

from trialbook.errors import TryAgainError, UserError

PATIENCE_SECONDS = 120.0
"""Seconds for which a request is repeated that fails for the moment: the store answers 429 or 5xx, or not at all."""
_LOST_SECONDS = 5.0
"""The same once the store has been given up, so that a process that ends does not wait for each of its files."""
_UNREACHABLE_SECONDS = 15.0
"""The same while no connection was ever made: a wrong address is a mistake, which is reported soon."""
TIMEOUT = (10.0, 60.0)
"""Seconds for a connection, and between two parts of an answer."""
_FSSPEC_SECONDS = 60.0
"""Seconds for one request of fsspec, which has no limit of its own and repeats a request five times."""


class StoreLostError(TryAgainError):
  """A store that did not answer, or only with errors that pass, for `PATIENCE_SECONDS`."""


class ChangedObjectError(Exception):
  """An object was not as a request expected: it was there, or had been replaced."""


class _Connection:
  """The client of this process.

  Attributes:
    client: of google-cloud-storage.
    has_answered: whether the store ever did.
    is_lost: whether it has been given up, until it answers again.
  """

  def __init__(self) -> None:
    try:
      from google.auth import exceptions
      from google.cloud import storage
    except ImportError as error:
      raise UserError(f"gs:// paths need packages that are missing ({error}): install trialbook[gcs]") from None
    try:
      self.client: Any = storage.Client(project=None)
    except exceptions.GoogleAuthError as error:
      raise UserError(
        f"gs:// paths need credentials of Google Cloud ({str(error).splitlines()[0]}); run gcloud auth"
        " application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
      ) from None
    self.has_answered = self.is_lost = False
    _prepare_fsspec()


@functools.cache
def _connection() -> _Connection:
  return _Connection()


def _prepare_fsspec() -> None:
  """Let Orbax and jax, which reach the store through fsspec, see what other processes write there."""
  import aiohttp
  import fsspec.config

  timeout = aiohttp.ClientTimeout(total=_FSSPEC_SECONDS)
  settings: dict[str, Any] = {"use_listings_cache": False, "requests_timeout": timeout}
  if os.environ.get("STORAGE_EMULATOR_HOST"):
    settings["token"] = "anon"
    # What gcsfs has for zonal buckets speaks gRPC over TLS, which a stand-in of the store does not.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  for protocol in ("gs", "gcs"):
    fsspec.config.conf.setdefault(protocol, {}).update(settings)


def client() -> Any:
  """Return the client of google-cloud-storage. Raises UserError if packages or credentials for it are missing."""
  return _connection().client


@contextlib.contextmanager
def request(path: object, patience: float | None = None) -> Iterator[dict[str, Any]]:
  """Yield the options of requests about a path, which repeat those that fail for the moment.

  Args:
    path: for messages.
    patience: seconds for which they are repeated; None: `PATIENCE_SECONDS`.

  Raises:
    FileNotFoundError: if there is no such object or bucket.
    OSError: if the store refuses the request, for example to this account.
    ChangedObjectError: if a condition of the request does not hold.
    StoreLostError: if the store did not answer for that long.
    UserError: if there never was a connection.
  """
  connection = _connection()
  import http.client

  import requests
  import urllib3
  from google.api_core import exceptions
  from google.api_core.retry import Retry
  from google.auth import exceptions as auth
  from google.cloud.storage.exceptions import InvalidResponse

  cut = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ConnectionError)
  begun, limit = time.monotonic(), PATIENCE_SECONDS if patience is None else patience

  def passes(error: BaseException) -> bool:
    status = error.response.status_code if isinstance(error, InvalidResponse) else getattr(error, "code", None)
    if status is not None:
      return status in (408, 429) or status >= 500
    return isinstance(error, (*cut, auth.TransportError))

  def is_repeated(error: BaseException) -> bool:
    is_late = time.monotonic() - begun > min(limit, _UNREACHABLE_SECONDS)
    return passes(error) and not (is_late and not connection.has_answered and _is_unreachable(error))

  seconds = min(limit, _LOST_SECONDS) if connection.is_lost else limit
  retry = Retry(predicate=is_repeated, initial=0.5, maximum=8.0, multiplier=2.0, timeout=seconds)
  try:
    yield {"retry": retry, "timeout": TIMEOUT}
    connection.has_answered, connection.is_lost = True, False
  except exceptions.NotFound:
    raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path)) from None
  except exceptions.PreconditionFailed:
    raise ChangedObjectError(str(path)) from None
  except (exceptions.Forbidden, exceptions.Unauthorized, auth.RefreshError) as error:
    raise PermissionError(errno.EACCES, f"access denied ({_first_line(error)})", str(path)) from None
  except (exceptions.GoogleAPIError, auth.GoogleAuthError, *cut) as error:
    cause: BaseException = (error.cause if isinstance(error, exceptions.RetryError) else None) or error
    if not passes(cause):
      raise OSError(errno.EINVAL, f"the store refused the request ({_first_line(cause)})", str(path)) from None
    if not connection.has_answered and _is_unreachable(cause):
      raise UserError(
        f"{path}: there is no connection to the store ({_first_line(cause)}); check its address and the network"
      ) from None
    # A short look at the store gives nothing up.
    connection.is_lost = connection.is_lost or patience is None
    waited = time.monotonic() - begun
    raise StoreLostError(
      f"{path}: the store did not answer for {waited:.0f} s ({_first_line(cause)}); rerun the same command to resume"
    ) from None


def _is_unreachable(error: BaseException) -> bool:
  """Return whether a request failed since no connection could be made."""
  from google.auth import exceptions as auth
  from urllib3 import exceptions

  inner = error.args[0] if isinstance(error, auth.TransportError) and error.args else error
  reason = getattr(inner.args[0], "reason", None) if isinstance(inner, Exception) and inner.args else None
  return isinstance(reason, exceptions.NewConnectionError | exceptions.ConnectTimeoutError)


def _first_line(error: BaseException) -> str:
  return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]

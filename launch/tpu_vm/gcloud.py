"""Calls of the program gcloud, and what it says where they fail."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from typing import Any

from trialbook.errors import UserError
from trialbook.launch.remote.calls import Interrupted, call, never

_SECONDS = 600.0
# The status of the API (google.rpc.Code) stands before the message, or its number in the error of an operation.
_STATUS = re.compile(r"\b([A-Z]{2,}(?:_[A-Z]+)*): ")
_NUMBER = re.compile(r'"code": (\d+)')
_CODES = {
  3: "INVALID_ARGUMENT",
  5: "NOT_FOUND",
  6: "ALREADY_EXISTS",
  7: "PERMISSION_DENIED",
  8: "RESOURCE_EXHAUSTED",
  9: "FAILED_PRECONDITION",
  16: "UNAUTHENTICATED",
}
REFUSALS = frozenset(_CODES.values())
"""Statuses of the API after which the same call fails again, until a person changes something."""
_LOGIN = ("gcloud auth login", "Reauthentication", "invalid_grant", "active account")
_REQUIRED = "required property ["
_USAGE = 2
"""Exit code of gcloud for arguments that it does not take."""


class GcloudError(Exception):
  """The API refused a call; the message is what gcloud says.

  Attributes:
    status: of the API, one of `REFUSALS`.
  """

  def __init__(self, text: str, status: str):
    self.status = status
    super().__init__(text)


class GcloudUnavailableError(Exception):
  """The API cannot be reached, or failed: the same call may succeed later. The message is what gcloud says."""


def gcloud(arguments: Sequence[str], seconds: float = _SECONDS, interrupted: Interrupted = never) -> str:
  """Run `gcloud` with arguments, and return what it prints.

  Raises:
    UserError: if it is not installed, nobody is logged in, or it does not take the arguments.
    GcloudError: if the API refuses.
    GcloudUnavailableError: if the API does not answer.
    GivenUpError: if it was interrupted.
  """
  if shutil.which("gcloud") is None:
    raise UserError("gcloud is not installed; see https://cloud.google.com/sdk/docs/install")
  environment = {**os.environ, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
  try:
    done = call(["gcloud", *arguments, "--quiet"], seconds, interrupted, environment=environment)
  except TimeoutError:
    raise GcloudUnavailableError(f"gcloud {' '.join(arguments[:4])} took more than {seconds:g} s") from None
  if done.returncode:
    raise _error(done.returncode, done.stderr.decode(errors="replace"))
  return done.stdout.decode(errors="replace")


def gcloud_json(arguments: Sequence[str], seconds: float = _SECONDS) -> Any:
  """Run `gcloud` and return what it prints as JSON. Raises as `gcloud`."""
  text = gcloud([*arguments, "--format=json"], seconds)
  try:
    return json.loads(text)
  except ValueError:
    raise GcloudUnavailableError(f"gcloud {' '.join(arguments[:4])} printed no JSON: {text[:200]!r}") from None


def _error(code: int, text: str) -> Exception:
  """Return the error for gcloud's exit code and what it printed to standard error."""
  words = text[text.find("ERROR:") :] if "ERROR:" in text else text
  words = " ".join(words.removeprefix("ERROR:").split())
  if any(sign in words for sign in _LOGIN):
    return UserError(f"nobody is logged in to gcloud; run gcloud auth login. It says: {words}")
  if code == _USAGE or _REQUIRED in words:
    return UserError(f"gcloud does not take this: {words}")
  number = _NUMBER.search(words)
  status = _CODES.get(int(number[1]), "") if number else next(iter(_STATUS.findall(words)), "")
  return GcloudError(words, status) if status in REFUSALS else GcloudUnavailableError(words)

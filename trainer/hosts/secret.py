"""The secret of a job: who knows it may take part. It is passed by environment or by a file, never on a command line.

A command line is seen by every user of a machine, the environment of a process by its owner only.
"""

import os
import pathlib
import secrets

from trialbook.errors import UserError

VARIABLE = "TRIALBOOK_SECRET"
"""Environment variable that holds the secret."""
OPEN = b""
"""What the hosts of an open job have in place of a secret."""

_LEAST_CHARACTERS = 16
_HOW_TO_PASS = (
  f"Give every host the same one: set {VARIABLE}, or name a file by --secret_file. To make one:"
  " (umask 077; python -c 'import secrets; print(secrets.token_hex())' > FILE)."
  " On a network where you trust everyone, --open_job does without"
)


def new_secret() -> str:
  """Return a secret for a job, for the environment of its hosts."""
  return secrets.token_hex()


def read_secret(path: pathlib.Path | None = None, *, is_open: bool = False) -> bytes:
  """Return the secret of this process's job, or `OPEN` if it is to be an open one.

  It is taken out of the environment, so that the programs that this process starts do not inherit it.

  Args:
    path: of a file that holds it; None: it is in the environment.
    is_open: whether anybody may take part if no secret is given.

  Raises:
    UserError: if there is none, or it is too short; the message says how to pass one.
  """
  text, where = os.environ.pop(VARIABLE, None), VARIABLE
  if path is not None:
    try:
      text, where = path.read_text(), f"--secret_file={path}"
    except (OSError, UnicodeDecodeError) as error:
      reason = error.strerror if isinstance(error, OSError) else "is not text"
      raise UserError(f"--secret_file={path}: cannot be read ({reason})") from None
  if text is None:
    if is_open:
      return OPEN
    raise UserError(f"the hosts of this job have no secret, so any process could join it. {_HOW_TO_PASS}")
  if len(text := text.strip()) < _LEAST_CHARACTERS:
    raise UserError(f"{where} holds {len(text)} characters, which is no secret. {_HOW_TO_PASS}")
  return text.encode()

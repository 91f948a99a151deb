"""Durations and dates as tables of runs write them."""

import datetime
import re
from typing import Any

from trialbook.tuning.importers.cells import number

_DAYS = re.compile(r"(?:(\d+) days?,? ?)?(?:(\d+):(\d{1,2}):(\d{1,2}(?:\.\d+)?))?")
_UNITS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = r"(\d+(?:\.\d+)?) ?(ms|sec|s|min|m|h|d)\b ?"


def seconds(cell: Any) -> float | None:
  """Return a duration in seconds: a number of them, `0 days 00:01:02.5`, `1:02:03`, `3.4min` or `1h 2m 3s`; None if it
  is something else."""
  if isinstance(cell, datetime.timedelta):
    return cell.total_seconds()
  value = number(cell)
  if value is not None:
    return value if 0 <= value < float("inf") else None
  text = str(cell).strip()
  if text and (found := _DAYS.fullmatch(text)):
    days, hours, minutes, rest = (float(part or 0) for part in found.groups())
    return 86400 * days + 3600 * hours + 60 * minutes + rest
  if re.fullmatch(f"(?:{_PART})+", text):
    return sum(float(count) * _UNITS[unit] for count, unit in re.findall(_PART, text))
  return None


def moment(cell: Any) -> float | None:
  """Return a date in seconds since the epoch: as ISO 8601 writes it, `2024-01-31_12-00-00`, or a number of seconds or
  milliseconds since the epoch; None if it is something else. Without a time zone it is taken as UTC."""
  if isinstance(cell, datetime.datetime):
    return _timestamp(cell)
  value = number(cell)
  if value is not None:
    return value if 1e8 < value < 1e11 else value / 1e3 if 1e11 <= value < 1e14 else None
  text = str(cell).strip()
  text = re.sub(r"(\d{4}-\d\d-\d\d)_(\d\d)-(\d\d)-(\d\d)", r"\1 \2:\3:\4", text)
  if not re.match(r"\d{4}-?\d\d-?\d\d", text):
    return None
  try:
    return _timestamp(datetime.datetime.fromisoformat(text))
  except ValueError:
    return None


def _timestamp(time: datetime.datetime) -> float:
  return (time if time.tzinfo is not None else time.replace(tzinfo=datetime.UTC)).timestamp()

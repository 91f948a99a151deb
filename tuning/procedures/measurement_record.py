"""The measurements of a folder, one JSON line each, so that what was measured is not measured again."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from trialbook import files
from trialbook.errors import UserError
from trialbook.progress import ProgressLine
from trialbook.record import Format, Kind, stored
from trialbook.settings import KINDS
from trialbook.trainer.records import config_of
from trialbook.trainer.workdir.existing_run import differences
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.step_measurement import MEASUREMENT, Machine, Measure, Measurement, from_json

NAME = "measurements.jsonl"
"""Name of the file. Its first line says what was measured, each other one is a batch size."""
UNSURE = 0.1
"""Least difference of the fastest blocks of steps, relative to their median, at which timings decide nothing: as much
as the growth of throughput that is asked for."""


@stored
class _Settings(TypedDict):
  """The first line: what is measured, and on what."""

  format: Format
  config: dict[str, Any]
  machine: dict[str, Any]


_REMEDY = "Remove the file to measure again"
_LINES = Kind(dict[str, Any], _REMEDY, version=None)
_SETTINGS = Kind(_Settings, _REMEDY)


def read(path: pathlib.Path) -> list[Measurement]:
  """Return the measurements that a file holds; none if there is no such file."""
  return [
    from_json(MEASUREMENT.check(path, number, line))
    for number, line in enumerate(_LINES.lines(path), start=1)
    if number > 1
  ]


class MeasurementRecord:
  """The measurements of a procedure, which makes those that are missing, or whose timings vary too much (`UNSURE`).

  Args:
    lab: whose config is measured, and whose folder holds the file.
    machine: that it is measured on.
    measure: measures a size.

  Attributes:
    used: the measurements that were asked for, by batch size, in order.

  Raises:
    UserError: if the folder holds measurements of another config or machine.
  """

  def __init__(self, lab: Lab, machine: Machine, measure: Measure):
    self._lab, self._machine, self._measure = lab, machine, measure
    self._path = lab.folder / NAME
    self._line = ProgressLine(enabled=lab.progress)
    self._key = {
      "format": files.FORMAT,
      "config": lab.config.model_dump(mode="json"),
      "machine": dataclasses.asdict(machine),
    }
    self._known: dict[int, Measurement] = {}
    self.used: dict[int, Measurement] = {}
    for number, line in enumerate(_LINES.lines(self._path), start=1):
      if number == 1:
        self._check_settings(_SETTINGS.check(self._path, number, line))
      else:
        one = from_json(MEASUREMENT.check(self._path, number, line))
        self._known[one.batch_size] = one

  def measured(self, batch_size: int) -> Measurement:
    """Return the measurement of a size; make and record it if there is none yet, or none that decides anything."""
    found = self.used.get(batch_size) or self._known.get(batch_size)
    if found is None or (batch_size not in self.used and found.fits and found.spread >= UNSURE):
      new = self._measure(self._lab.config, batch_size, self._machine, self._lab.folder)
      self._check_device(new)
      # Of two that were disturbed, the one that was less so.
      found = new if found is None or not new.fits or new.spread < found.spread else found
      self._known[batch_size] = found
      lines = [self._key, *map(dataclasses.asdict, self._known.values())]
      files.write_text(self._path, "".join(map(_line, lines)))
      self._line.note(_note(found))
    self.used = dict(sorted({**self.used, batch_size: found}.items()))
    return found

  def _check_settings(self, settings: "_Settings") -> None:
    before = config_of(settings["config"], _SETTINGS, self._path)
    other = [*differences(before, self._lab.config, kinds=KINDS, layout=True)]
    if settings["machine"] != self._key["machine"]:
      other.append("devices, cores or memory")
    if other:
      raise UserError(f"{self._path} was measured with other settings ({', '.join(other)}); choose another --dir")

  def _check_device(self, new: Measurement) -> None:
    for one in self._known.values():
      if one.device_kind and new.device_kind and one.device_kind != new.device_kind:
        raise UserError(
          f"{self._path} was measured on {one.device_kind}, and this is {new.device_kind}; choose another --dir"
        )


def _line(value: Mapping[str, Any]) -> str:
  return json.dumps(files.jsonable(value), allow_nan=False) + "\n"


def _note(one: Measurement) -> str:
  if not one.fits:
    return f"batch size {one.batch_size:,}: {one.reason}"
  return (
    f"batch size {one.batch_size:,}: {one.examples_per_second:,.0f} examples/s, {one.step_seconds * 1e3:.3g} ms a step,"
    f" {one.waiting:.0%} of it waiting for data"
  )

"""Datasets of the user's: a function named as "module:function", which needs to import nothing of ours."""

import dataclasses
import traceback
from collections.abc import Mapping
from typing import Any, cast

from pydantic import Field, JsonValue

from trialbook.errors import DataError, said
from trialbook.import_attribute import PluginError, import_attribute
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.input_pipeline.checked_source import checked
from trialbook.input_pipeline.items import Keys, Pad
from trialbook.input_pipeline.source import Source
from trialbook.settings import Host, Settings, Static

PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """The value that a function of the user's may return, if the splits alone do not say everything.

  Attributes:
    splits: "train", "validation" and, if there is one, "test", and further ones named validation_NAME or test_NAME:
      each a dict of arrays [n, ...], nested or not, or a tuple of them, or an object with `__len__` and
      `__getitem__(i)` or `__getitems__(list of i)` that gives such a dict or tuple, without the axis n, for each
      example. Our own tasks read "inputs", and "labels" (integers) or "targets" (numbers); one's own reads any keys.
    num_classes: needed for labels in splits that are not arrays; otherwise 1 + the highest label.
    normalization: (means, deviations) of the inputs by channel, which the model applies; bytes have one by default. If
      inputs are a mapping, such a pair by path: {"inputs/image": (means, deviations)}.
    notice: what must be said beside every result, such as that the data are made up.
    ignore_label: label that counts in no loss and no metric, such as -1 or 255.
    keys: names for the entries of tuples, such as ("inputs", "labels", "weights"); or, for splits and examples that are
      dicts, from keys there to keys here, such as {"image": "inputs"}. Without, a tuple has inputs, and labels if its
      second entry has whole numbers, or else targets.
    pad: arrays of different lengths, and the length up to which each is filled.
  """

  splits: Mapping[str, Any]
  num_classes: int | None = None
  normalization: tuple[Any, Any] | Mapping[str, tuple[Any, Any]] | None = None
  notice: str = ""
  ignore_label: int | None = None
  keys: Keys = None
  pad: tuple[Pad, ...] = ()


class PluginDataset(Settings):
  """A function "module:function", called with `kwargs`, that returns a dict of splits, or `Data`.

  For example `{"train": {"inputs": x, "labels": y}, "validation": ...}`. It must give the same on every host and
  in every process. `workers` is the number of processes that call it again and make the batches.
  """

  name: Static[str] = Field(pattern=PATTERN)
  kwargs: Static[dict[str, JsonValue]] = Field(default_factory=dict)
  workers: Host[int] = Field(default=0, ge=0)
  augmentation: Augmentation | None = None

  def read(self) -> Source:
    """Call the function. Raise `DataError` that says what is missing."""
    data = built("dataset.name", self.name, self.kwargs)
    return checked(
      f"dataset.name {self.name!r}",
      self.name,
      data.splits,
      num_classes=data.num_classes,
      normalization=data.normalization,
      notice=data.notice,
      ignore_label=data.ignore_label,
      keys=data.keys,
      pads=data.pad,
    )


def built(where: str, name: str, kwargs: Mapping[str, Any]) -> Data:
  """Return what a function of the user's returns.

  Args:
    where: what messages begin with.
    name: of the function, "module:function".
    kwargs: its arguments.

  Raises:
    DataError: it cannot be imported, or raises an exception.
  """
  try:
    build = import_attribute(where, name)
  except PluginError as error:
    raise DataError(str(error)) from error
  where = f"{where} {name!r}"
  if not callable(build):
    raise DataError(f"{where}: is a {type(build).__name__}; it must be a function")
  try:
    found = build(**kwargs)
  except Exception as error:
    if isinstance(error, DataError):
      raise
    raise DataError(f"{where}: {said(error)}{_place(error)}") from error
  return found if isinstance(found, Data) else Data(splits=cast(Any, found))


def _place(error: BaseException) -> str:
  frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
  return f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""

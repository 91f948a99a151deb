"""A task for one dataset: which arrays it needs, and its functions as the steps call them, with all that is checked."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from trialbook.errors import ConfigError, UserError
from trialbook.import_attribute import place_of
from trialbook.input_pipeline import Info
from trialbook.input_pipeline.source import EXAMPLE, IS_EXAMPLE, flat, paths_below
from trialbook.models.call_modes import Call, as_call, described
from trialbook.naming import nearest
from trialbook.trainer import rng
from trialbook.trainer.functional_model import wide
from trialbook.trainer.recorded_settings import RecordedSettings
from trialbook.trainer.task_members import MEMBERS, by_keyword
from trialbook.trainer.task_values import Mean, Sum, objective
from trialbook.trainer.tasks import Task
from trialbook.trainer.user_code_errors import explained

_RESERVED = ("examples",)


class BoundTask:
  """A task, with the facts of the dataset that it is for.

  Attributes:
    name: as in the config.
    kind: the task's class.
    info: the facts.
    num_outputs: size of the last axis of the one array that the model returns; None: outputs are as they are.
    train_paths: paths of the arrays of a training batch.
    eval_paths: those of an evaluation batch, `is_example` included.
    read_settings: names of the traced settings that the task's functions have read.

  Raises:
    ConfigError: the dataset does not have what the task needs.
    UserError: what the task returns is not what it must be.
  """

  def __init__(self, task: Task, info: Info, name: str, *, of_user: bool):
    self._task, self._of_user = task, of_user
    self.name, self.kind, self.info = name, type(task), info
    self.read_settings: set[str] = set()
    keys = self._asked("keys", info)
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
      raise self._wrong("keys", keys, "a list of keys", 'return ["inputs", "labels"]')
    if not keys:
      raise self._wrong("keys", keys, "a list of at least one key", 'return ["inputs"]')
    self.eval_paths = [*paths_below(keys, info.spec), IS_EXAMPLE]
    self.train_paths = paths_below(keys, {**info.spec, **info.training_spec})
    if self.draws:
      self.eval_paths.append(EXAMPLE)
    self.num_outputs: int | None = None
    problems = self._missing(keys)
    try:
      self.num_outputs = self._asked("num_outputs", info) if self._has("num_outputs") else None
    except ValueError as error:
      # Of data with labels in place of targets, or the other way round, it says more than that a key is missing.
      if not problems or {"labels", "targets"} & info.spec.keys():
        problems = str(error).splitlines()
    if problems:
      raise ConfigError(problems)
    if self.num_outputs is not None and not hasattr(self.num_outputs, "__index__"):
      raise self._wrong("num_outputs", self.num_outputs, "a whole number, or None", "return info.num_classes")

  @property
  def draws(self) -> bool:
    """Return whether the task draws random numbers for an example."""
    return self._has("prepare")

  def _has(self, member: str) -> bool:
    return getattr(self._task, member, None) is not None

  @property
  def variant(self) -> str:
    """Return what tells this task from others of its class and settings: names of metrics depend on the dataset."""
    if not self._of_user:
      return repr(self._task)
    # A task of a user's may read any of the facts.
    facts = dataclasses.asdict(self.info)
    return repr(sorted((name, fact) for name, fact in facts.items() if name not in ("notice", "left_out")))

  @property
  def dataset_paths(self) -> list[str]:
    """Return the paths that a dataset must keep for the task."""
    return [path for path in self.info.spec if path in (*self.train_paths, *self.eval_paths)]

  @property
  def unused(self) -> list[str]:
    """Return the keys of the dataset that the task does not need, those that have no array included."""
    return [*(path for path in self.info.spec if path not in self.dataset_paths), *self.info.left_out]

  def batch_spec(self, batch_size: int, *, train: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes and dtypes of a batch by path."""
    spec = {**self.info.spec, **self.info.training_spec, EXAMPLE: ((), "uint32"), IS_EXAMPLE: ((), "bool")}
    paths = self.train_paths if train else self.eval_paths
    return {path: jax.ShapeDtypeStruct((batch_size, *spec[path][0]), spec[path][1]) for path in paths}

  def prepare(
    self, batch: Mapping[str, Any], rngs: rng.TaskRngs, settings: Mapping[str, Array], *, train: bool
  ) -> dict[str, Any]:
    """Return the batch with what the task adds to it, such as noise.

    Args:
      batch: nested.
      rngs: keys for each example.
      settings: the task's traced settings.
      train: whether in training.
    """
    if not self._has("prepare"):
      return dict(batch)
    found = self._asked("prepare", batch, settings=settings, rngs=rngs, train=train)
    if not isinstance(found, Mapping):
      raise self._wrong("prepare", found, "a dict, the batch that the other functions receive", "return {**batch, ...}")
    if "inputs" not in found and not self._has("model_inputs"):
      wanted = "a batch with 'inputs', which the model is given, unless model_inputs says something else"
      raise self._wrong("prepare", found, wanted, "return {**batch, ...}")
    before, after = flat(batch), flat(found)
    for path, value in after.items():
      if not _is_array(value):
        raise self._wrong("prepare", value, "an array, or a dict of arrays", "return {**batch, ...}", path)
      if path in before and value.shape[:1] != before[path].shape[:1]:
        wanted = f"an array of {before[path].shape[0]} examples, as before"
        raise self._wrong("prepare", value, wanted, "give it another key", path)
    return dict(found)

  def model_inputs(self, batch: Mapping[str, Any], settings: Mapping[str, Array], *, train: bool) -> Call:
    """Return what the model is called with."""
    if not self._has("model_inputs"):
      return Call(batch["inputs"])
    found = as_call(self._asked("model_inputs", batch, settings=settings, train=train))
    if not any(map(_is_array, jax.tree.leaves(found))):
      alone = found.args[0] if len(found.args) == 1 and not found.kwargs else found
      raise self._wrong("model_inputs", alone, "arrays, or a Call of arrays", 'return Call(batch["inputs"], name=...)')
    return found

  def loss(self, outputs: Any, batch: Mapping[str, Any], **given: Any) -> dict[str, Mean]:
    """Return the terms of the loss by name; one without a name is called "loss".

    Args:
      outputs: the model's.
      batch: nested, prepared.
      **given: settings, train and sown.
    """
    found = self._asked("loss", outputs, batch, **given)
    terms = found if isinstance(found, Mapping) else {"loss": found}
    if len(terms) > 1 and "loss" in terms:
      raise UserError(f"{self._place('loss')} names one of several terms 'loss', as their sum is called; rename it")
    mend = "return losses, with losses [B], or Mean(total, count), or a dict of these by name"
    if not terms:
      raise self._wrong("loss", found, "a term at least", mend)
    size = self._size(batch)
    return {name: self._mean("loss", name, term, size, mend) for name, term in terms.items()}

  def metrics(self, outputs: Any, batch: Mapping[str, Any], **given: Any) -> dict[str, Mean | Sum]:
    """Return the metrics by name; arguments as those of `loss`."""
    if not self._has("metrics"):
      return {}
    found = self._asked("metrics", outputs, batch, **given)
    mend = 'return {"error": errors}, with errors [B], or Mean(total, count), or Sum(total)'
    if not isinstance(found, Mapping):
      raise self._wrong("metrics", found, "a dict", mend)
    if taken := [name for name in found if name in _RESERVED]:
      raise UserError(
        f"{self._place('metrics')} names a metric {taken[0]!r}, which is a name of trialbook's own; rename it"
      )
    size = self._size(batch)
    return {
      name: self._sum(name, value, size, mend)
      if isinstance(value, Sum)
      else self._mean("metrics", name, value, size, mend)
      for name, value in found.items()
    }

  def rows(self, outputs: Any, batch: Mapping[str, Any], model: Callable[..., Any], **given: Any) -> dict[str, Array]:
    """Return what an evaluation keeps of each example, arrays [B, ...] by name."""
    if not self._has("rows"):
      return {}
    found = self._asked("rows", outputs, batch, model, **given)
    mend = 'return {"predictions": outputs.argmax(axis=-1)}'
    if not isinstance(found, Mapping):
      raise self._wrong("rows", found, "a dict of arrays [B, ...]", mend)
    size = self._size(batch)
    for name, value in found.items():
      if not _is_array(value) or not value.shape or value.shape[0] != size:
        raise self._wrong("rows", value, f"an array [{size}, ...], a row for each example", mend, name)
    return dict(found)

  def split_metrics(self) -> dict[str, Callable[..., float]]:
    """Return the metrics of a whole split, functions of (means, rows), by name."""
    if not self._has("split_metrics"):
      return {}
    found = self._asked("split_metrics")
    if not isinstance(found, Mapping) or not all(map(callable, found.values())):
      mend = 'return {"recall": lambda means, rows: ...}'
      raise self._wrong("split_metrics", found, "a dict of functions of (means, rows)", mend)
    return dict(found)

  def split_metric(self, name: str, values: Mapping[str, Any], rows: Mapping[str, Any]) -> float:
    """Return one metric of a whole split, from its means and sums, and its rows."""
    with self._explaining("split_metrics", f" {name!r}", {"the first argument": values, "rows": rows}):
      value = self.split_metrics()[name](values, rows)
    try:
      return float(value)
    except (TypeError, ValueError):
      raise self._wrong("split_metrics", value, "a number", "return float(value)", name) from None

  def mean_loss(self, outputs: Any, batch: Mapping[str, Any], settings: Mapping[str, Array]) -> Array:
    """Return the training objective of given outputs, float32 []."""
    terms = self.loss(outputs, batch, settings=settings, train=True, sown={})
    return objective(terms, *totals_and_counts(terms))

  def _size(self, batch: Mapping[str, Any]) -> int:
    """Return the number of examples of a batch: the length of an array of the dataset, which `prepare` must keep."""
    arrays = flat(batch)
    return next(arrays[path].shape[0] for path in (*self.train_paths, *arrays) if path in arrays and arrays[path].ndim)

  def _missing(self, keys: Any) -> list[str]:
    """Return which keys the dataset lacks."""
    problems = []
    known = {**self.info.spec, **self.info.training_spec}
    for key in keys:
      below = paths_below([key], self.info.left_out)
      if paths_below([key], known) and not below:
        continue
      if below:
        why = self.info.left_out[below[0]]
        missing = "which no batch has" if below[0] == key else f"of which no batch has {below[0]!r}"
        problems.append(f"the {self.name} task needs {key!r}, {missing}, because {why}")
        continue
      there = ", ".join(map(repr, dict.fromkeys(path.partition("/")[0] for path in self.info.spec))) or "nothing"
      problems.append(
        f"the {self.name} task needs {key!r}; dataset {self.info.name!r} gives {there}{nearest(key, known)}"
      )
    if "labels" in keys and (forgotten := [key for key in self.info.training_spec if key not in keys]):
      problems.append(
        f"{self._place('keys')} does not name {', '.join(map(repr, forgotten))}, by which dataset"
        f" {self.info.name!r} mixes labels in training: return [..., *info.training_spec] and weight both losses by"
        " 'mixing', or set dataset.augmentation.mixup_alpha and cutmix_alpha to null"
      )
    if not self._has("model_inputs") and "inputs" not in {path.partition("/")[0] for path in self.train_paths}:
      mend = 'def model_inputs(self, batch): return batch["..."]'
      if "inputs" not in keys:
        problems.append(
          f"{self._place('keys')} does not name 'inputs', which the model is given; name it, or say what the model is"
          f" given instead: {mend}"
        )
    return problems

  def _asked(self, member: str, *arguments: Any, **given: Any) -> Any:
    function = getattr(self._task, member)
    given["info"] = self.info
    wanted = {name: value for name, value in given.items() if name in by_keyword(function, len(arguments))}
    if "settings" in wanted:
      wanted["settings"] = RecordedSettings(wanted["settings"], self.read_settings)
    by_position = MEMBERS[member][1:]
    there = {f"the {name}": argument for name, argument in zip(by_position, arguments, strict=False)} | wanted
    with self._explaining(member, there=there):
      return function(*arguments, **wanted)

  @contextlib.contextmanager
  def _explaining(
    self, member: str, detail: str = "", there: Mapping[str, Any] = MappingProxyType({})
  ) -> Iterator[None]:
    """Explain errors of the user's code, which was given these values by name."""
    if not self._of_user:
      yield
      return
    try:
      with explained(f"{self._place(member)}{detail} fails"):
        yield
    except UserError as error:
      cause = error.__cause__
      if not isinstance(cause, KeyError):
        if "the outputs" not in there:
          raise
        raise UserError(f"{error}; the model returned {described(there['the outputs'])}") from cause
      keys = {
        name: ", ".join(map(repr, value)) for name, value in there.items() if isinstance(value, Mapping) and value
      }
      needed = getattr(self, "train_paths", self.info.spec)
      unnamed = [path for path in self.info.spec if path not in needed and {*path.split("/")} & {*cause.args}]
      hint = f"; dataset {self.info.name!r} has it: name {unnamed[0]!r} in keys" if unnamed else ""
      told = "".join(f"; {name} {'have' if name == 'settings' else 'has'} {of_it}" for name, of_it in keys.items())
      raise UserError(f"{error}{told}{hint}") from cause

  def _mean(self, member: str, name: str, value: Any, size: int, mend: str) -> Mean:
    if _is_array(value):
      if value.shape != (size,):
        what = f"one number for each example, [{size}]"
        hint = f"return Mean({name}), for the mean over all of them, or Mean({name} * mask, mask) if some do not count"
        raise self._wrong(member, value, what, hint if value.shape[:1] == (size,) else mend, name)
      value = Mean(value)
    if not isinstance(value, Mean):
      raise self._wrong(member, value, f"an array [{size}], or a Mean", mend, name)
    parts: dict[str, Any] = {"total": value.total} | ({} if value.count is None else {"count": value.count})
    for part, array in parts.items():
      if not _is_array(array) or not array.shape or array.shape[0] != size:
        raise self._wrong(
          member, array, f"an array [{size}, ...]", f"{part}=…, with an axis of examples", f"{name}.{part}"
        )
    if jnp.ndim(value.coefficient):
      raise self._wrong(member, value.coefficient, "one number or traced setting", mend, f"{name}.coefficient")
    if value.count is not None and value.count.shape != value.total.shape:
      shapes = f"total is {list(value.total.shape)} and count {list(value.count.shape)}"
      raise self._wrong(member, value, f"a Mean whose total and count have one shape, but {shapes}", mend, name)
    if not jnp.issubdtype(value.total.dtype, jnp.floating):
      if member == "loss":
        raise self._wrong(member, value.total, "floats", "return losses.astype(jnp.float32)", name)
      value = Mean(value.total.astype(jnp.float32), value.count, value.coefficient)
    return value

  def _sum(self, name: str, value: Sum, size: int, mend: str) -> Sum:
    total = value.total
    if not _is_array(total) or total.ndim not in (1, 2) or total.shape[0] != size:
      raise self._wrong("metrics", total, f"an array [{size}] or [{size}, K]", mend, f"{name}.total")
    return value

  def _place(self, member: str) -> str:
    return f"task {self.name!r}: {member}"

  def _wrong(self, member: str, found: Any, wanted: str, mend: str, name: str = "") -> UserError:
    """Return the error for a value of a member's that is not what is wanted."""
    what = f"{found.dtype}{list(found.shape)}" if _is_array(found) else f"a {type(found).__name__}"
    if isinstance(found, Mapping):
      what += f" of {', '.join(map(str, found)) or 'nothing'}"
    subject = f"{self._place(member)} returned {what}{f' for {name!r}' if name else ''}"
    return UserError(f"{subject}; it must be {wanted}: {mend}{place_of(getattr(self._task, member))}")


def bind(task: Any, info: Info, name: str | None = None) -> BoundTask:
  """Return a task for a dataset; one that is bound already as it is.

  Raises:
    ConfigError, UserError: as `BoundTask`.
  """
  if isinstance(task, BoundTask):
    return task
  of_user = not type(task).__module__.startswith("trialbook.")
  shown = name or f"{type(task).__module__}:{type(task).__name__}"
  return BoundTask(task, info, shown, of_user=of_user)


def totals_and_counts(terms: Mapping[str, Mean]) -> tuple[dict[str, Array], dict[str, Array]]:
  """Return the sums of the totals and of the counts of a batch, float32 [] by name."""
  totals = {name: jnp.sum(wide(term.total)) for name, term in terms.items()}
  counts = {
    name: jnp.float32(term.total.size)
    if term.count is None
    else jax.lax.stop_gradient(jnp.sum(term.count.astype(jnp.float32)))
    for name, term in terms.items()
  }
  return totals, counts


def _is_array(found: Any) -> bool:
  return hasattr(found, "shape") and hasattr(found, "dtype")

"""Names of metrics: those known from other programs as ours, `split/name`."""

import re
from collections.abc import Collection, Iterable, Mapping

from trialbook.errors import UserError
from trialbook.naming import nearest

_SPLITS = (
  ("train_subset", ("train_subset", "train_eval", "eval_train")),
  ("train", ("train", "training")),
  ("validation", ("validation", "valid", "val", "eval", "evaluation", "dev")),
  ("test", ("test",)),
)
_LAST = {"acc": "accuracy", "err": "error", "error_rate": "error", "ppl": "perplexity", "bpb": "bits_per_byte"}
LEARNING_RATE = "learning_rate"
DEFAULTS = ("validation/error", "validation/loss", "validation/accuracy")
"""Metrics by which a study is ranked if nothing names one: the first of these that was logged."""
_WHOLE = {
  "loss": "train/loss",
  "gradient_norm": "grad_norm",
  "global_grad_norm": "grad_norm",
  "gradnorm": "grad_norm",
  "lr": LEARNING_RATE,
}


def ours(name: str) -> str:
  """Return our name of a metric.

  `val_loss`, `valid/loss`, `eval.loss`, `validation-loss` are `validation/loss`, `lr` is `learning_rate`, `loss` is
  `train/loss`; a name that is not known stays as it is.

  `eval_...` is taken for the validation set, as most programs have it.
  """
  if (known := _WHOLE.get(name.lower())) is not None:
    return known
  for split, prefixes in _SPLITS:
    found = re.fullmatch(rf"(?:{'|'.join(prefixes)})[/_.\- ](.+)", name, flags=re.IGNORECASE)
    if found:
      last = found[1]
      return f"{split}/{_LAST.get(last.lower(), last)}"
  return name


def mapping(names: Collection[str], known: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
  """Return our name for each metric of a source.

  What the user gave comes first, then what the importer knows, then `ours`. Where two metrics would get one name, the
  one that had it keeps it, and the other keeps its own too.

  Args:
    names: all of the source's.
    known: by the importer.
    given: by the user; names that this source lacks are passed over.

  Raises:
    UserError: if what was given makes two metrics one.
  """
  found = {name: given[name] for name in names if name in given}
  rest = {name: known.get(name, ours(name)) for name in names if name not in given}
  problems = []
  for name, target in found.items():
    others = [other for other, its in (*found.items(), *((other, other) for other in rest)) if its == target]
    if others != [name]:
      problems.append(f"rename: {name!r} cannot be {target!r} too: {next(o for o in others if o != name)!r} is")
  if problems:
    raise UserError(problems)
  taken = {*found.values(), *(name for name, target in rest.items() if target == name)}
  for name, target in rest.items():
    found[name] = name if target in taken else target
    taken.add(found[name])
  return {name: found[name] for name in names}


def parse_renames(texts: Iterable[str]) -> dict[str, str]:
  """Return `["METRIC=NAME", ...]` as a mapping. Raise UserError if an entry is wrong."""
  found: dict[str, str] = {}
  problems = []
  for text in texts:
    name, equals, target = text.rpartition("=")
    if not equals or not name or not target:
      problems.append(f"--rename={text}: should be METRIC=NAME, for example --rename=top1=validation/accuracy")
    elif found.setdefault(name, target) != target:
      problems.append(f"--rename={text}: {name!r} is renamed to {found[name]!r} already")
  if problems:
    raise UserError(problems)
  return found


def unknown(given: Mapping[str, str], names: Iterable[str]) -> list[str]:
  """Return what is wrong with renamings of metrics that no trial of a source logged."""
  names = set(names)
  return [f"rename: {name!r} was logged by no trial{nearest(name, names)}" for name in given if name not in names]

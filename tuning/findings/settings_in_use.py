"""The settings of a study's config, so that a finding proposes only changes that can be made."""

from collections.abc import Mapping
from typing import Any

from trialbook.settings import find
from trialbook.tuning.results import StudyResults


def proposed(results: StudyResults, *choices: tuple[str, Any]) -> Mapping[str, Any] | None:
  """Return the first of the changes, path and value, that the study's config has a field for and does not make already.

  None if there is none: a study made elsewhere has no config, and a hyperparameter of the study was tried already.
  """
  config = results.study.config
  if config is None:
    return None
  for path, value in choices:
    found = find(config, path)
    if not is_varied(results, path) and found is not None and found[1] != value:
      return {path: value}
  return None


def setting(results: StudyResults, path: str) -> Any:
  """Return the value at a dotted path of the study's config; None if there is none."""
  config = results.study.config
  found = None if config is None else find(config, path)
  return None if found is None else found[1]


def is_varied(results: StudyResults, path: str) -> bool:
  """Return whether a hyperparameter of the study sets the field."""
  return any(one.path == path or path.startswith(f"{one.path}.") for one in results.space.values())

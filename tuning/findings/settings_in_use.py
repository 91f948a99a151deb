"""What a study's configuration says, so that a finding proposes only changes that can be made."""

from collections.abc import Mapping
from typing import Any

from trialbook.tuning.results import StudyResults


def proposed(results: StudyResults, *choices: tuple[str, Any]) -> Mapping[str, Any] | None:
  """The first of the changes, path and value, that the study's config has a field for and does not make already.

  None where there is no such: a study made elsewhere has no config, and what is a hyperparameter was tried.
  """
  for path, value in choices:
    if not is_varied(results, path) and setting(results, path, missing := object()) not in (missing, value):
      return {path: value}
  return None


def setting(results: StudyResults, path: str, otherwise: Any = None) -> Any:
  """The value at a dotted path of the config; `otherwise` if there is none."""
  found: Any = results.study.config
  for name in path.split("."):
    found = getattr(found, name, otherwise)
    if found is otherwise:
      return otherwise
  return found


def is_varied(results: StudyResults, path: str) -> bool:
  """Whether a hyperparameter of the study sets the field."""
  return any(one.path == path or path.startswith(f"{one.path}.") for one in results.space.values())

"""Traced settings that note which of them the user's code reads, so that one that nothing reads is reported."""

from collections.abc import Mapping
from typing import Any

import jax


class RecordedSettings(dict):
  """Traced settings by name, which note what is read."""

  def __init__(self, settings: Mapping[str, Any], read: set[str]):
    super().__init__(settings)
    self.read = read

  def __getitem__(self, name: str) -> Any:
    self.read.add(name)
    return super().__getitem__(name)

  def get(self, name: str, default: Any = None) -> Any:
    """Return a setting, or the default if there is none."""
    self.read.add(name)
    return super().get(name, default)

  def __contains__(self, name: object) -> bool:
    self.read.add(str(name))
    return super().__contains__(name)

  def _all(self) -> list[Any]:
    self.read.update(self)
    return list(dict.values(self))


jax.tree_util.register_pytree_node(
  RecordedSettings,
  lambda settings: (settings._all(), tuple(settings)),
  lambda names, leaves: RecordedSettings(dict(zip(names, leaves, strict=True)), set()),
)

"""JSON-lines files as any program reads them."""

import json
import pathlib
from typing import Any


def read_json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The objects of a file in order, without a last line that is not ended yet."""
  return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []

"""Which room may import which; the tables are those in docs/design.md."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROOMS = {
  "models": {},
  "input_pipeline": {"input_pipeline/datasets": {"input_pipeline"}},
  "trainer": {
    "trainer/hosts": {"trainer"},
    "trainer/checkpoints": {"trainer"},
    "trainer/workdir": {"trainer", "trainer/checkpoints", "trainer/hosts"},
    "trainer/debug": {"trainer", "trainer/checkpoints", "trainer/workdir"},
  },
  "launch": {
    "launch/preflight": {"launch"},
    "launch/remote": {"launch"},
    "launch/tpu_vm": {"launch", "launch/remote"},
  },
  "tuning": {
    "tuning/space": set(),
    "tuning/advice_benchmark": {"tuning", "tuning/findings", "tuning/space"},
    "tuning/search": {"tuning/space"},
    "tuning/execution": {"tuning", "tuning/search", "tuning/space"},
    "tuning/findings": {"tuning", "tuning/findings/statistics", "tuning/space"},
    "tuning/findings/statistics": {"tuning", "tuning/space"},
    "tuning/importers": {"tuning", "tuning/space"},
    "tuning/procedures": {
      *("tuning", "tuning/execution", "tuning/findings", "tuning/findings/statistics", "tuning/reporting"),
      *("tuning/search", "tuning/space"),
    },
    "tuning/reporting": {"tuning", "tuning/findings", "tuning/findings/statistics", "tuning/space"},
  },
  "experiments": {"experiments/algoperf": set(), "experiments/studies": {"experiments", "experiments/algoperf"}},
}
"""Rooms, each with its inner rooms and what these may import within the room."""
MAY_IMPORT = {
  "models": set(),
  "input_pipeline": set(),
  "trainer": {"models", "input_pipeline"},
  "launch": {"trainer"},
  "tuning": {"models", "trainer", "launch"},
  "experiments": {"models", "input_pipeline", "trainer", "tuning"},
}
"""Which other rooms a room may import; each may import the leaf, the files of trialbook/ itself."""


def imports(path: pathlib.Path) -> Iterator[str]:
  """The places of trialbook that a file imports: "" for the leaf, or a room, or an inner room."""
  for node in ast.walk(ast.parse(path.read_text())):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
      if name.split(".")[0] == "trialbook":
        yield place(pathlib.Path(*name.split(".")[1:]))


def place(inside: pathlib.Path) -> str:
  """The room or inner room of a path relative to trialbook/, or "" for the leaf."""
  while str(inside) != "." and not (ROOT / inside).is_dir():
    inside = inside.parent
  return "" if str(inside) == "." else str(inside)


def files(room: str) -> list[pathlib.Path]:
  found = list((ROOT / room).rglob("*.py"))
  assert found
  return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str):
  for path in files(room):
    here = place(path.relative_to(ROOT).parent)
    assert here == room or here in ROOMS[room], f"{here} is in no table"
    for there in set(imports(path)) - {"", here}:
      top = there.split("/")[0]
      if top != room:
        assert top in MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {there}"
      elif here != room:
        assert there in ROOMS[room][here], f"{path.relative_to(ROOT)} imports {there}"


def test_the_leaf_imports_no_room():
  for path in (ROOT / "trialbook").glob("*.py"):
    assert {*imports(path)} <= {""}, path.name


@pytest.mark.parametrize("room", [*ROOMS, "tests", "benchmarks"])
def test_our_own_modules_are_imported_under_one_name(room: str):
  for path in files(room):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        assert not {alias.name.split(".")[0] for alias in node.names} & {*ROOMS}, f"{path}: {ast.unparse(node)}"
      if isinstance(node, ast.ImportFrom):
        assert (node.module or "").split(".")[0] not in ROOMS, f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        assert node.level == 0, f"{path.relative_to(ROOT)}: {ast.unparse(node)}"


def test_the_package_holds_each_room_by_a_link():
  links = {path.name: str(path.readlink()) for path in (ROOT / "trialbook").iterdir() if path.is_symlink()}
  assert links == {room: f"../{room}" for room in ROOMS}


def test_no_file_has_a_name_that_says_nothing():
  vague = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
  tracked = [path for room in [*ROOMS, "trialbook", "tests", "benchmarks"] for path in files(room)]
  assert not [path for path in tracked if path.stem in vague]

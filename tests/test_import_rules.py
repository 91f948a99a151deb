"""Which room may import which; the table is the one in docs/design.md."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROOMS = {
  "trialbook": set(),
  "models": {"trialbook"},
  "input_pipeline": {"trialbook"},
  "trainer": {"trialbook", "models", "input_pipeline"},
  "launch": {"trialbook", "trainer"},
  "tuning": {"trialbook", "trainer", "launch"},
  "experiments": {"trialbook", "models", "input_pipeline", "trainer", "tuning"},
}
OURS = {*ROOMS, "tests", "benchmarks"}


def imports(path: pathlib.Path) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name.partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
      found.add(node.module.partition(".")[0])
  return found & OURS


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str):
  files = list((ROOT / room).rglob("*.py"))
  assert files
  for path in files:
    forbidden = imports(path) - ROOMS[room] - {room}
    assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


def test_no_file_has_a_name_that_says_nothing():
  vague = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
  tracked = [path for room in OURS for path in (ROOT / room).rglob("*.py")]
  assert not [path for path in tracked if path.stem in vague]

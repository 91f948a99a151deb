"""Print seconds by test file, and the slowest tests, from what pytest wrote by --junitxml.

  python tests/times.py BEFORE.xml [AFTER.xml ...]
  python tests/times.py --keep TIER.xml [TIER.xml ...]

`--keep` writes tests/seconds.json instead: tests/conftest.py gives the longest files to the processes first.
Several files are columns of one table, so that tiers, or a state before and one after, stand beside each other. The
seconds of a test include what its fixtures take; a module's fixture counts for the first test that needs it.
"""

import collections
import json
import pathlib
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence

SLOWEST = 25
"""How many tests are listed one by one."""

KEPT = pathlib.Path(__file__).with_name("seconds.json")
"""Seconds by file, of the tier in which the file takes longest."""


def seconds_by_test(path: pathlib.Path) -> dict[tuple[str, str], float]:
  """Return the seconds of each (file, test) of a JUnit file."""
  found: dict[tuple[str, str], float] = collections.defaultdict(float)
  for case in ElementTree.parse(path).iter("testcase"):
    file = case.attrib["classname"].removeprefix("tests.").replace(".", "/") + ".py"
    found[file, case.attrib["name"]] += float(case.attrib["time"])
  return found


def seconds_by_file(tests: Mapping[tuple[str, str], float]) -> dict[str, float]:
  """Return the sum of the seconds of each file's tests."""
  files: dict[str, float] = collections.defaultdict(float)
  for (file, _), seconds in tests.items():
    files[file] += seconds
  return dict(files)


def keep(paths: Sequence[str]) -> None:
  """Write `KEPT` from a JUnit file of each tier."""
  longest: dict[str, int] = {}
  for path in paths:
    for file, seconds in seconds_by_file(seconds_by_test(pathlib.Path(path))).items():
      longest[file] = max(longest.get(file, 0), round(seconds))
  KEPT.write_text(json.dumps(longest, indent=1, sort_keys=True) + "\n")


def table(columns: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> list[str]:
  """Return the lines of a Markdown table of seconds; the largest of any column first."""
  lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
  for name, values in sorted(rows.items(), key=lambda row: -max(value or 0 for value in row[1])):
    lines.append(f"| {name} | " + " | ".join("" if value is None else f"{value:.1f}" for value in values) + " |")
  return lines


def main(paths: Sequence[str]) -> None:
  """Print the tables of some JUnit files."""
  measured = [seconds_by_test(pathlib.Path(path)) for path in paths]
  columns = [pathlib.Path(path).stem for path in paths]
  by_file = [seconds_by_file(tests) for tests in measured]
  totals = {"all": [sum(tests.values()) for tests in measured]}
  files = {file: [column.get(file) for column in by_file] for column in by_file for file in column}
  lines = table(columns, totals | files)
  tests = {key: [column.get(key) for column in measured] for column in measured for key in column}
  slowest = sorted(tests.items(), key=lambda row: -max(value or 0 for value in row[1]))[:SLOWEST]
  lines += ["", *table(columns, {f"`{file}::{name}`": values for (file, name), values in slowest})]
  sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
  keep(sys.argv[2:]) if sys.argv[1:2] == ["--keep"] else main(sys.argv[1:])

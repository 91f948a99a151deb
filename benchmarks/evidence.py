"""Make the tables of the documentation again: each by the command above it, dated with its commit.

  python -m benchmarks.evidence [COMMAND ...]

Without arguments all tables are made, which takes hours; a word such as `planted_points` chooses the commands that
contain it. A table that the command prints replaces the one of the same header below the command in the page. What
the page says of a table in sentences is not changed: read it again.
"""

import datetime
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "docs" / name for name in ("benchmarks.md", "findings.md", "testing.md")]
COMMAND = re.compile(
  r"^```sh no-test\n(.*python (?:-m (?:benchmarks\.\w+|planted_\w+)|tests/\S+\.py))\b.*\n", re.MULTILINE
)
"""The first line of a block of commands makes the tables; other lines are variants of it."""
TABLE = re.compile(r"^\|.*\n\|[-:| ]+\|\n(?:\|.*\n)*", re.MULTILINE)
MEASURED = re.compile(r"Measured on \d{4}-\d\d-\d\d at commit `\w+`[^.\n]*\.\n")


def sections(page: str) -> list[tuple[str, int, int]]:
  """Return each command of a page with where its tables can be: from the end of its block to the next one."""
  found = list(COMMAND.finditer(page))
  starts = [page.index("\n```\n", one.end() - 1) + len("\n```\n") for one in found]
  ends = [*[one.start() for one in found[1:]], len(page)]
  return [(one[1].split(" #")[0].strip(), start, end) for one, start, end in zip(found, starts, ends, strict=True)]


def replaced(section: str, printed: str, when: str) -> tuple[str, list[str]]:
  """Return a section with the tables that were printed and when they were measured, and the tables without a place."""
  homeless = []
  for table in TABLE.findall(printed):
    header = table.partition("\n")[0]
    old = next((one for one in TABLE.findall(section) if one.startswith(header + "\n")), None)
    if old is None:
      homeless.append(table)
    else:
      section = section.replace(old, table)
  body = MEASURED.sub("", section, count=1).lstrip("\n")
  return f"\n{when}\n\n{body}", homeless


def commit() -> str:
  """Return the short name of the commit, or of the one before the changes that are not committed."""

  def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

  name = f"`{git('rev-parse', '--short', 'HEAD')}`"
  return f"{name} with uncommitted changes" if git("status", "--porcelain") else name


def main(wanted: Sequence[str]) -> int:
  """Run the commands that contain one of the words, all without any, and put their tables into the pages."""
  failed = 0
  when = f"Measured on {datetime.date.today()} at commit {commit()}."
  environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
  for path in PAGES:
    for command, _, _ in sections(path.read_text()):
      if wanted and not any(word in command for word in wanted):
        continue
      print(f"{path.name}: {command}", flush=True)
      # The page names the environment's python, which is the one that runs this.
      line = command.replace(".venv/bin/python", shlex.quote(sys.executable))
      done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
      if done.returncode:
        print(f"failed with code {done.returncode}; its tables stay as they are", flush=True)
        failed += 1
        continue
      page = path.read_text()  # Commands take long, and somebody may have edited the page.
      start, end = next((start, end) for one, start, end in sections(page) if one == command)
      section, homeless = replaced(page[start:end], done.stdout, when)
      path.write_text(page[:start] + section + page[end:])
      if homeless:
        print("printed, but the page has no table of this header:", *homeless, sep="\n", flush=True)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))

"""Make the tables of the documentation again: each by the command above it, dated with its commit.

  python -m benchmarks.evidence [COMMAND ...]

Without arguments all tables are made, which takes hours. A word such as `advice-benchmark` chooses the commands that
contain it. The tables that a command prints replace those of the same headers below it in the page, all or none of
them, so a section is dated only if each of its tables was measured. What a page says of a table in sentences is not
changed: read it again.
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
PAGES = [
  ROOT / "docs" / name for name in ("benchmarks.md", "findings.md", "measured_procedures.md", "pods.md", "testing.md")
]
COMMAND = re.compile(
  r"^```sh no-test\n"
  r"(.*python (?:-m benchmarks\.\w+|tests/\S+\.py)|trialbook tune advice-benchmark(?: --\w+=\w+)*)\b.*\n",
  re.MULTILINE,
)
"""The first line of a block of commands makes the tables; other lines are variants of it."""
TABLE = re.compile(r"^\|.*\n\|[-:| ]+\|\n(?:\|.*\n)*", re.MULTILINE)
DATED = re.compile(r"(?:Measured|Last changed) on \d{4}-\d\d-\d\d at commit `\w+`[^.\n]*\.\n")


def sections(page: str) -> list[tuple[str, int, int]]:
  """Return each command of a page with where its tables can be: from the end of its block to the next one."""
  found = list(COMMAND.finditer(page))
  starts = [page.index("\n```\n", one.end() - 1) + len("\n```\n") for one in found]
  ends = [*[one.start() for one in found[1:]], len(page)]
  return [(one[1].split(" #")[0].strip(), start, end) for one, start, end in zip(found, starts, ends, strict=True)]


def replaced(section: str, printed: str, when: str) -> str:
  """Return a section with its tables replaced by those that were printed, and dated.

  Raises:
    ValueError: if the headers of the tables in the section are not those of the tables that were printed.
  """
  old, new = TABLE.findall(section), TABLE.findall(printed)
  headers = [[table.partition("\n")[0] for table in tables] for tables in (old, new)]
  if headers[0] != headers[1]:
    raise ValueError(f"the page has tables of the headers {headers[0]}, and the command printed {headers[1]}")
  for before, after in zip(old, new, strict=True):
    section = section.replace(before, after)
  body = DATED.sub("", section, count=1).lstrip("\n")
  return f"\n{when}\n\n{body}"


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
      try:
        path.write_text(page[:start] + replaced(page[start:end], done.stdout, when) + page[end:])
      except ValueError as error:
        print(f"{error}; the page stays as it is:\n{done.stdout}", flush=True)
        failed += 1
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))

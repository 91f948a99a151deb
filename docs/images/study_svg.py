"""Draws docs/images/study.svg, the picture in README.md: what the study of `make demo` prints at its end.

PYTHONPATH=. python docs/images/study_svg.py DIR
"""

import os
import pathlib
import re
import sys
import tempfile

from rich.console import Console
from rich.terminal_theme import MONOKAI

from tuning import read_results, tables

COMMAND = "$ python -m tuning run --study=experiments/studies/digits_optimizer.py --dir=runs/demo --workers=2"
WIDTH = 112
"""In characters."""
CHARACTER = 12.2
"""Width of a character in rich's drawing, in its units."""


def main() -> None:
  """Writes the picture beside this file."""
  folder = pathlib.Path(sys.argv[1]).resolve()
  # Relative, so that the picture shows the study as the command names it.
  with tempfile.TemporaryDirectory() as place, open(os.devnull, "w") as nowhere:
    os.chdir(place)
    pathlib.Path("runs").mkdir()
    pathlib.Path("runs/demo").symlink_to(folder)
    # Forced, because bold and lines are only recorded for a terminal.
    console = Console(record=True, file=nowhere, width=WIDTH, force_terminal=True, highlight=False, markup=False)
    console.print(COMMAND, style="bold")
    tables.show_results(read_results("runs/demo"), None, console)
  drawn = console.export_svg(title="trialbook", theme=MONOKAI, unique_id="study")
  pathlib.Path(__file__).resolve().with_name("study.svg").write_text(indented(drawn))


def indented(drawn: str) -> str:
  """The drawing with leading spaces as positions: some viewers drop them, and numbers would not be aligned."""

  def moved(match: re.Match[str]) -> str:
    spaces = match["spaces"].count("&#160;")
    x, length = float(match["x"]) + spaces * CHARACTER, float(match["length"]) - spaces * CHARACTER
    return f'x="{x:.1f}" y="{match["y"]}" textLength="{length:.1f}"{match["rest"]}>'

  return re.sub(
    r'x="(?P<x>[\d.]+)" y="(?P<y>[\d.]+)" textLength="(?P<length>[\d.]+)"(?P<rest>[^>]*)>(?P<spaces>(&#160;)+)',
    moved,
    drawn,
  )


if __name__ == "__main__":
  main()

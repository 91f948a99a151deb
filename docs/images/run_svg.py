"""Draws docs/images/run.svg, the picture in README.md: trains the digits ResNet and records what it prints.

PYTHONPATH=. python docs/images/run_svg.py
"""

import os
import pathlib
import re
import tempfile

from rich.console import Console
from rich.terminal_theme import MONOKAI

from trainer import load_config, run, summary

COMMAND = "$ python -m trainer --config=experiments/digits_resnet.py --workdir=runs/demo"
WIDTH = 96
"""In characters; the longest line, which says what is in `best.json`, fits."""
CHARACTER = 12.2
"""Width of a character in rich's drawing, in its units."""


def main() -> None:
  """Writes the picture beside this file."""
  picture = pathlib.Path(__file__).resolve().with_name("run.svg")
  config = load_config("experiments/digits_resnet.py")
  with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
    # Relative, so that the picture shows the workdir as the command names it.
    os.chdir(folder)
    result = run(config, "runs/demo")
    # Forced, because bold and lines are only recorded for a terminal.
    console = Console(record=True, file=nowhere, width=WIDTH, force_terminal=True, highlight=False, markup=False)
    console.print(COMMAND, style="bold")
    summary.Console = lambda **_: console
    summary.print_result(result)
  drawn = console.export_svg(title="trialbook", theme=MONOKAI, unique_id="run")
  picture.write_text(indented(drawn))


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

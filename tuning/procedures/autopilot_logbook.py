"""The logbook of the autopilot: each decision with its evidence and its cost, as text and as a page."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jinja2

from trialbook import escaping, files
from trialbook.tuning import reporting

NAME, PAGE = "logbook.md", "logbook.html"
QUESTIONS = {
  "budget": "Does the budget pay for a single round?",
  "baseline": "Is the initial configuration reasonable (PB-07)?",
  "batch size": "Which batch size uses the device fully (PB-05)?",
  "max steps": "How many steps should a training have (PB-60)?",
  "round": "Where in the space are the best points, and what should the next study change (PB-20 to PB-33)?",
  "stability: warmup": "Does warmup make a much larger learning rate stable (PB-82)?",
  "stability: clipping": "Does clipping of gradients make a larger learning rate stable (PB-83)?",
  "stability": "Is training stable at and right above the best learning rate (PB-80)?",
  "adopt": "Is the best point of the exploration better than the initial configuration, from seed to seed (PB-42)?",
  "finish": "Which point near the best is the final configuration, and how good is it on the test set (PB-43)?",
}
"""The question of each stage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """A decision.

  Attributes:
    stage: such as "round 2".
    decision: in a sentence.
    evidence: a sentence each.
    consequence: what is done because of it, a sentence.
    cost: in words, with what has been used of the budget.
    links: (label, path below the autopilot's folder) of what it was read from.
  """

  stage: str
  decision: str
  evidence: Sequence[str] = ()
  consequence: str = ""
  cost: str
  links: Sequence[tuple[str, str]] = ()

  @property
  def question(self) -> str:
    """Return the question of the stage; empty if it has none."""
    return question(self.stage)


def question(stage: str) -> str:
  """Return the question of a stage; empty if it has none."""
  return next((asked for name, asked in QUESTIONS.items() if stage.startswith(name)), "")


def write(folder: pathlib.Path, entries: Sequence[Entry], summary: str) -> None:
  """Write `logbook.md` and `logbook.html`."""
  folder.mkdir(parents=True, exist_ok=True)
  files.write_text(folder / NAME, markdown(entries, summary))
  files.write_text(folder / PAGE, page(entries, summary, folder.resolve().name))


def markdown(entries: Sequence[Entry], summary: str) -> str:
  """Return the logbook as text: a section for each decision."""
  lines = ["# Logbook", "", summary, ""]
  for number, entry in enumerate(entries, start=1):
    lines += [f"## {number}. {entry.stage}", ""]
    lines += [f"*{escaping.markdown(entry.question)}*", ""] if entry.question else []
    lines += [escaping.markdown(entry.decision), ""]
    lines += [*(f"- {escaping.markdown(sentence)}" for sentence in entry.evidence), ""] if entry.evidence else []
    lines += [escaping.markdown(entry.consequence), ""] if entry.consequence else []
    links = "".join(f" [{label}]({path})" for label, path in entry.links)
    lines += [f"Cost: {entry.cost}.{links}", ""]
  return "\n".join(lines)


def page(entries: Sequence[Entry], summary: str, name: str) -> str:
  """Return the logbook as a page of HTML."""
  here = pathlib.Path(reporting.__file__).parent
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  template = environment.from_string((here / "logbook.html.j2").read_text())
  return template.render(name=name, summary=summary, entries=entries, css=(here / "page.css").read_text())

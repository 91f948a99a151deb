"""What all findings have in common; what each finds is in test_findings_points.py and test_findings_curves.py."""

import ast
import importlib
import json
import pathlib
import re

import pytest

import trialbook.tuning.findings
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import QUESTIONS, SEVERITIES, Finding, findings

FOLDER = pathlib.Path(trialbook.tuning.findings.__file__).resolve().parent
DOCS = FOLDER.parent.parent / "docs" / "findings.md"


def constants(path: pathlib.Path) -> dict[str, str | None]:
  """The public constants of a module, with their docstrings."""
  body = ast.parse(path.read_text()).body
  found = {}
  for statement, after in zip(body, [*body[1:], None], strict=True):
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
      text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
      found[statement.targets[0].id] = text or None
  return {name: text for name, text in found.items() if name.isupper() and not name.startswith("_")}


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_has_a_module_that_names_what_the_playbook_asks(question):
  module = importlib.import_module(f"trialbook.tuning.findings.{question}")
  ids = re.findall(r"PB-\d\d", module.__doc__ or "")
  assert ids
  row = re.search(rf"^\| `{question}` \|.*\| ([^|]+) \|$", DOCS.read_text(), re.MULTILINE)
  assert row, question
  assert set(re.findall(r"PB-\d\d", row[1])) & set(ids)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_threshold_says_its_reason(path):
  assert [name for name, text in constants(path).items() if text is None] == []


def test_findings_are_the_same_each_time_json_and_the_gravest_first():
  results = planted.healthy(1, trials=24, evaluations=30)
  found = findings(results)
  assert found == findings(results)
  places = [SEVERITIES.index(one.severity) for one in found]
  assert places == sorted(places)
  assert {one.question for one in found} <= set(QUESTIONS)
  for one in found:
    assert json.loads(json.dumps(one.as_json(), allow_nan=False, default=float))["id"] == one.id
    assert set(one.trials) <= {trial.trial for trial in results.trials}


def test_a_changed_space_can_be_pasted_into_a_study_file():
  stored = {"scale": "log", "min": 1e-3, "max": 10.0, "role": "nuisance"}
  one = Finding(id="PB-23", question="boundary", severity="warning", title="", why="", space={"rate": stored})
  assert one.paste == '"rate": Log(min=0.001, max=10.0),'
  one = Finding(
    id="PB-27", question="late_noise", severity="warning", title="", why="", changes={"averaging.decay": 0.99}
  )
  assert one.paste == "--set averaging.decay=0.99"

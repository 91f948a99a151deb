"""The report as text, for terminals, pull requests and mails."""

from collections.abc import Sequence

from trialbook.escaping import markdown as escaped
from trialbook.tuning import tables
from trialbook.tuning.findings import SEVERITIES, Finding
from trialbook.tuning.reporting import successive
from trialbook.tuning.reporting.answer import answer
from trialbook.tuning.reporting.provenance import caveats, provenance
from trialbook.tuning.results import StudyResults

ROWS = 20
"""Trials in the table; the others are in `trials.csv`."""


def markdown(results: StudyResults, findings: Sequence[Finding], banner: str | None = None) -> str:
  """Return what the page says, without its plots."""
  said = answer(results, findings)
  lines = [
    f"# {escaped(results.study.goal or results.study.name)}",
    "",
    f"{escaped(results.study.name)}: {tables.states(results)}",
    "",
  ]
  if banner:
    lines += [f"> {escaped(banner)}", ""]
  lines += [escaped(said["sentence"]), ""]
  if said["next"]:
    lines += [f"**Next step:** {escaped(said['next'])}", ""]
  if said["more_because"]:
    lines += [f"**Further trials:** {said['further']}. {escaped(said['more_because'])}", ""]
  if results.best is not None and (command := tables.command(results.best)):
    lines += ["```sh", command, "```", ""]
  if since := successive.changes(results, findings):
    lines += [escaped(since["summary"]), "", *(f"- {escaped(line)}" for line in since["findings"]), ""]
  own = [findings[place] for place in said["findings"]]
  if own:
    lines += ["## The study's question", ""]
    for one in own:
      lines += _finding(one, whole=True)
    lines += [""]
  lines += ["## Other findings" if own else "## Findings", ""]
  for severity in SEVERITIES:
    for one in findings:
      if one.severity == severity and one not in own:
        lines += _finding(one)
  lines += ["", "## Trials", "", *_table(results), "", "## Caveats and provenance", ""]
  lines += [f"- {escaped(warning)}" for warning in caveats(results)]
  lines += [f"- {name}: {escaped(value)}" for name, value in provenance(results)]
  return "\n".join(lines) + "\n"


def _finding(one: Finding, whole: bool = False) -> list[str]:
  """Return a finding; of one that is in order only its title, unless the whole is wanted."""
  lines = [f"- **{one.severity.replace('_', ' ')}** ({one.id}) {escaped(one.title)}"]
  if whole or one.severity != "ok":
    lines.append(f"  {escaped(one.why)}")
  if one.action:
    lines.append(f"  *Do:* {escaped(one.action)}")
  if one.until and (whole or one.severity != "ok"):
    lines.append(f"  *Would change this:* {escaped(one.until)}")
  if one.paste:
    lines += ["", *(f"      {line}" for line in one.paste.splitlines()), ""]
  return lines


def _table(results: StudyResults) -> list[str]:
  ranked = [*results.by_point, *(trial for trial in results.trials if trial.objective is None)]
  means, digits = tables.means(results), tables.digits(results)
  head = ["trial", "state", results.objective.metric, *(["mean of retrains"] if means else []), "step"]
  head.append("hyperparameters")
  lines = [f"| {' | '.join(map(escaped, head))} |", f"|{'---|' * len(head)}"]
  for trial in ranked[:ROWS]:
    values = tables.values_text(trial.values, results.study.hyperparameters)
    reason = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
    mean = [means.get(trial.trial)] if means else []
    cells = [trial.trial, reason, trial.objective, *mean, trial.step, values]
    lines.append(f"| {' | '.join(escaped(tables.number(cell, digits)) for cell in cells)} |")
  if len(ranked) > ROWS:
    lines += ["", f"and {len(ranked) - ROWS} more"]
  return lines

"""The commands `report`, `compare` and `index` of `trialbook tune`."""

import argparse
import pathlib

from rich.table import Table
from rich.text import Text

from trialbook import errors, files
from trialbook.command_line import warn
from trialbook.errors import UserError
from trialbook.tuning import tables
from trialbook.tuning.commands import ranked_by
from trialbook.tuning.compared_settings import compared_settings
from trialbook.tuning.comparing import read_any, read_compared
from trialbook.tuning.reporting.index import write_index
from trialbook.tuning.reporting.report import report
from trialbook.tuning.results import StudyResults


def report_(options: argparse.Namespace) -> int:
  """Execute `trialbook tune report DIR`."""
  results = ranked_by(read_any(options.dir), options)
  path = report(results, options.output, format=options.format)
  if str(path) == "-":
    return errors.DONE
  console = tables.console()
  console.print(f"report: {path}", soft_wrap=True)
  root = results.folder.resolve().parent
  if options.output is None and options.format == "html" and files.may_write(root):
    _index(root, "  all studies")
  return errors.DONE


def compare(options: argparse.Namespace) -> int:
  """Execute `trialbook tune compare DIR DIR ...`: print a table and the findings on it, and write a report if asked."""
  from trialbook.tuning.findings import (
    comparison,  # Its statistics take a second to import, which no other command waits for.
  )

  results = ranked_by(read_compared(options.dirs), options)
  console = tables.console()
  console.print(_compared(results))
  for one in comparison.find(results):
    console.print(f"{one.severity.replace('_', ' ')} ({one.id}): {one.title}", soft_wrap=True)
    console.print(f"  {one.why}", soft_wrap=True)
    if one.action:
      console.print(f"  {one.action}", soft_wrap=True)
    if one.until:
      console.print(f"  Would change this: {one.until}", soft_wrap=True)
  if options.output is not None:
    console.print(f"report: {report(results, options.output)}", soft_wrap=True)
  return errors.DONE


def index(options: argparse.Namespace) -> int:
  """Execute `trialbook tune index ROOT`."""
  root = options.root
  if not root.is_dir():
    raise UserError(f"{root}: there is no such folder")
  _index(root, "all studies")
  return errors.DONE


def _index(root: pathlib.Path, what: str) -> None:
  """Write the page of all studies in a root, and print where, and what is not in it."""
  path, passed_over = write_index(root)
  for problem in passed_over:
    warn(f"warning: {problem}")
  tables.console().print(f"{what}: {path}", soft_wrap=True)


def _compared(results: StudyResults) -> Table:
  from trialbook.tuning.findings import comparison_words as words
  from trialbook.tuning.findings.statistics.contenders import budget_of, contenders

  field = contenders(results, compared_settings(results))
  budget = budget_of(field)
  metric, sign = results.objective.metric, results.objective.sign
  of = f"best of {budget}"
  kinds = [name for name in ("pruned", "infeasible") if any(getattr(one, name) for one in field)]
  table = tables.empty("study", words.noun(field), metric, f"{of}: median", f"{of}: 5% to 95%", *kinds)
  for one in field:
    cells = [""] * 3
    if one.costs:
      spread = one.best_of(budget, sign)
      cells = [
        tables.number(sign * one.costs[0]),
        tables.number(spread.median),
        f"{tables.number(spread.p5)} to {tables.number(spread.p95) or 'no value'}",
      ]
    table.add_row(Text(one.setting.label), str(one.total), *cells, *(str(getattr(one, name)) for name in kinds))
  return table

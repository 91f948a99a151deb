"""The commands `report`, `compare` and `index` of `python -m tuning`."""

import argparse
import os
from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from trainer import UserError, exits
from trialbook.paths import as_path
from tuning import scientific, tables
from tuning.comparing import read_any, read_compared
from tuning.reporting.index import write_index
from tuning.reporting.report import FORMATS, report
from tuning.results import StudyResults

Choose = Callable[[StudyResults, argparse.Namespace], StudyResults]
"""Ranks by what `--objective`, `--value` and `--mode` say."""


def report_(options: argparse.Namespace, choose: Choose) -> int:
  """`python -m tuning report DIR`."""
  results = choose(read_any(options.dir), options)
  path = report(results, options.output, format=options.format)
  if str(path) == "-":
    return exits.DONE
  console = tables.console()
  console.print(f"report: {path}", soft_wrap=True)
  root = results.folder.resolve().parent
  if options.output is None and options.format == "html" and os.access(root, os.W_OK):
    console.print(f"  all studies: {write_index(root)}", soft_wrap=True)
  return exits.DONE


def compare(options: argparse.Namespace, choose: Choose) -> int:
  """`python -m tuning compare DIR DIR ...`: a table, the findings on it, and a report where one is asked for."""
  from tuning.findings import comparison  # Its statistics take a second to import, which no other command waits for.

  results = choose(read_compared(options.dirs), options)
  console = tables.console()
  console.print(_compared(results))
  for one in comparison.find(results):
    console.print(f"{one.severity.replace('_', ' ')} ({one.id}): {one.title}", soft_wrap=True)
    console.print(f"  {one.why}", soft_wrap=True)
    if one.action:
      console.print(f"  {one.action}", soft_wrap=True)
  if options.output is not None:
    console.print(f"report: {report(results, options.output)}", soft_wrap=True)
  return exits.DONE


def index(options: argparse.Namespace) -> int:
  """`python -m tuning index ROOT`."""
  root = options.root
  if not root.is_dir():
    raise UserError(f"{root}: there is no such folder")
  tables.console().print(f"all studies: {write_index(root)}", soft_wrap=True)
  return exits.DONE


def _compared(results: StudyResults) -> Table:
  from tuning.findings.contenders import budget_of, contenders

  field = contenders(results, scientific.settings(results))
  budget = budget_of(field)
  metric, sign = results.objective.metric, results.objective.sign
  table = tables.empty(
    "study", "points", metric, f"best of {budget} points: median", f"best of {budget} points: 5% to 95%"
  )
  for one in field:
    cells = [""] * 3
    if one.costs:
      spread = one.best_of(budget, sign)
      cells = [
        tables.number(sign * one.costs[0]),
        tables.number(spread.median),
        f"{tables.number(spread.p5)} to {tables.number(spread.p95) or 'infeasible'}",
      ]
    table.add_row(Text(one.setting.label), str(one.total), *cells)
  return table


def add_commands(command: Callable[..., argparse.ArgumentParser], choose: Choose) -> list[argparse.ArgumentParser]:
  """Adds them to the parser; returns those that take the flags of an objective."""
  made = command("report", "write the report of a study or a round", lambda options: report_(options, choose), "dir")
  made.add_argument(
    "--output", type=as_path, metavar="FILE", help="where to; - prints it (default: report.html in the folder)"
  )
  what = "a page, its text, its findings as JSON, or its plots (default html)"
  made.add_argument("--format", choices=FORMATS, default="html", help=what)
  against = command("compare", "studies of one objective against each other", lambda options: compare(options, choose))
  against.add_argument("dirs", type=as_path, nargs="+", metavar="dir", help="folders of studies or rounds")
  against.add_argument("--output", type=as_path, metavar="FILE", help="write a report of them, too")
  command("index", "write a page of all studies in the folders of a root", index, "root")
  return [made, against]

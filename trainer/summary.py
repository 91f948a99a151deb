"""Tables for people: the fields of a config, and the result of a run."""

import rich.box
from rich.console import Console
from rich.table import Table

from trialbook.settings import leaves
from trialbook.trainer.config import Config
from trialbook.trainer.train import RunResult


def print_config(config: Config) -> None:
  """Print every field with its kind and value, one a line."""
  rows = [(path, kind, repr(value)) for path, kind, _, value in leaves(config)]
  widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
  console = Console(soft_wrap=True, highlight=False, markup=False)
  for path, kind, value in rows:
    console.print(f"{path:<{widths[0]}}  {kind:<{widths[1]}}  {value}")


def print_result(result: RunResult) -> None:
  """Print the last and the best evaluation side by side, and where everything lies."""
  console = Console(highlight=False, markup=False)
  table = Table(box=rich.box.SIMPLE_HEAD, title_justify="left")
  table.add_column("metric")
  table.add_column("last", justify="right")
  table.add_column("best" if result.best_step is None else f"step {result.best_step:,} (best)", justify="right")
  for name in {**result.metrics, **result.best}:
    values = [result.metrics.get(name), result.best.get(name)]
    if not name.endswith("/examples") and not any(isinstance(value, list) for value in values):
      table.add_row(name, *("" if value is None else f"{value:.5g}" for value in values))
  console.print(table)
  if result.note:
    console.print(f"note: {result.note}")
  if result.notice:
    console.print(f"note: {result.notice}")
  if result.reason:
    console.print(f"{result.status}: {result.reason}")
  console.print(f"{result.status} after {result.step:,} steps, {result.seconds:.0f} s")
  for name, what in (
    ("config.json", "the config"),
    ("run.json", "versions, code, machine, how it ended"),
    ("metrics.jsonl", "every step and evaluation"),
    ("best.json", "every evaluation of the selection metric, and the selected checkpoint"),
    ("", f"TensorBoard: tensorboard --logdir={result.workdir}"),
  ):
    console.print(f"  {result.workdir / name}  {what}", soft_wrap=True)
  if result.checkpoint is not None:
    console.print(f"selected checkpoint: {result.checkpoint}; evaluate it on the test set with", soft_wrap=True)
    console.print(f"  trialbook evaluate {result.workdir} --step=best --split=test", soft_wrap=True)

"""Debug mode: a check in seconds that a config can be expected to learn, before hours are spent on it.

On one device, with a small batch and a few steps, it looks for what usually is wrong with a run that does not learn:
data that do not belong together, outputs that do not fit the loss, layers that nothing reaches, numbers that are not
finite, examples that see each other, a learning rate that is too high. It has no workdir.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from trialbook import errors
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.compilation_cache import enable_compilation_cache
from trialbook.trainer.config import Config
from trialbook.trainer.debug import data_checks, learning_checks, model_checks
from trialbook.trainer.debug.session import Session, Verdict, open_session

FOUND = 1
"""Exit code where a check failed."""


class Rule(NamedTuple):
  """A check: the promise, how it is judged (None: it does not apply), and what must hold for it to mean anything."""

  name: str
  judge: Callable[[Session], Verdict | None]
  needs: tuple[str, ...] = ()


FINITE, LOGITS, LEARNED = "all numbers are finite", "outputs are logits", "the model can overfit a few examples"
RULES = (
  Rule("inputs have a usual scale", data_checks.inputs_are_scaled),
  Rule("labels are plausible", data_checks.labels_are_plausible),
  Rule("validation and training examples differ", data_checks.splits_are_apart),
  Rule("labels are the next inputs", data_checks.labels_are_next),
  Rule(FINITE, model_checks.is_finite),
  Rule(LOGITS, model_checks.gives_logits, (FINITE,)),
  Rule("the initial loss is as expected", model_checks.starts_as_a_guess, (FINITE,)),
  Rule("gradients reach every parameter", model_checks.gradients_reach_all, (FINITE,)),
  Rule("a training step is reproducible", model_checks.steps_repeat, (FINITE,)),
  Rule("an evaluation is reproducible", model_checks.evaluation_repeats, (FINITE,)),
  Rule("examples do not influence one another", model_checks.examples_are_independent, (FINITE,)),
  Rule("outputs do not depend on later positions", model_checks.positions_are_causal, (FINITE,)),
  Rule(LEARNED, learning_checks.a_batch_can_be_learned, (FINITE, LOGITS)),
  Rule("the learning rate is not too high", learning_checks.learning_rate_fits, (FINITE, LOGITS, LEARNED)),
  Rule("inputs predict labels of unseen examples", learning_checks.inputs_predict, (FINITE,)),
)
"""All checks, causes before their effects."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
  """The result of a check.

  Attributes:
    name: the promise that was checked.
    passed: None: it could not be judged, and `seen` says why.
    seen: what was seen, with numbers.
    remedy: what to look at if it failed.
  """

  name: str
  passed: bool | None
  seen: str
  remedy: str


class Parameter(NamedTuple):
  """A row of the table of parameters; mean and standard deviation are of the initial values."""

  name: str
  shape: tuple[int, ...]
  dtype: str
  bytes: int
  mean: float
  std: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class DebugReport:
  """The results of debug mode.

  Attributes:
    checks: in the order of `RULES`, those that apply to the config.
    table: the parameters by name.
    steps: metrics of a few steps of the config's own, and of the evaluation after each, by name.
  """

  checks: tuple[Check, ...]
  table: tuple[Parameter, ...]
  steps: tuple[dict[str, float], ...]

  @property
  def passed(self) -> bool:
    """Return whether no check failed."""
    return not self.failed

  @property
  def failed(self) -> tuple[Check, ...]:
    """Return the checks that failed."""
    return tuple(check for check in self.checks if check.passed is False)


def debug(config: Config, *, eager: bool = False, tell: Callable[[Any], None] = lambda part: None) -> DebugReport:
  """Examine a config: its data, its model, its loss, its learning rate.

  Args:
    config: of any run; at most `debug_session.BATCH_SIZE` examples of its batch are used, on one device.
    eager: whether only initialization is compiled, so that a debugger can stop in the model; checks of many steps are
      left out, and the rest is slower.
    tell: receives each part of the report as soon as it is there: the table, the steps, then each check.

  Raises:
    ConfigError: if a run could not start either, with all problems.
    UserError: if the model does not fit the task.
  """
  enable_compilation_cache(config.compilation_cache)
  session = open_session(config, eager=eager)
  precision = jax.default_matmul_precision(config.precision.matmul_precision)
  with session.dataset, jax.disable_jit(eager), precision:
    session.compile()
    tell(table := parameters(session))
    tell(steps := tuple(_own_steps(session)))
    checks: list[Check] = []
    for check in _judge(session):
      checks.append(check)
      tell(check)
  return DebugReport(checks=tuple(checks), table=table, steps=steps)


def main(config: Config, eager: bool = False) -> int:
  """Examine a config, print each finding when it is found, and return an exit code: 0, or `FOUND` if a check failed.

  Raises:
    UserError: as `debug`.
  """
  console = Console(highlight=False, markup=False, soft_wrap=True)

  def tell(part: Any) -> None:
    if isinstance(part, Check):
      word = {True: "pass", False: "FAIL", None: "skip"}[part.passed]
      console.print(f"{word}  {part.name}: {part.seen}", style="bold red" if part.passed is False else None)
      if part.passed is False:
        console.print(f"      to fix: {part.remedy}")
    else:
      lines = _parameter_lines(part) if isinstance(part[0], Parameter) else _step_lines(part)
      console.print(*lines, "", sep="\n")

  report = debug(config, eager=eager, tell=tell)
  if report.passed:
    console.print(f"none of {len(report.checks)} checks failed")
  else:
    console.print(f"{len(report.failed)} of {len(report.checks)} checks failed")
  return errors.DONE if report.passed else FOUND


def parameters(session: Session) -> tuple[Parameter, ...]:
  """Return the table of a model's parameters as they are drawn."""
  rows = []
  for name, array in flatten(session.state["params"]).items():
    values = np.asarray(array.astype(jnp.float32), np.float64)
    rows.append(Parameter(name, array.shape, str(array.dtype), array.nbytes, float(values.mean()), float(values.std())))
  return tuple(rows)


def _judge(session: Session) -> Iterator[Check]:
  held: dict[str, bool | None] = {}
  for rule in RULES:
    failed = [name for name in rule.needs if held.get(name, True) is False]
    skipped = Verdict(passed=None, seen=f'skipped because "{failed[0]}" failed') if failed else None
    verdict = skipped or rule.judge(session)
    if verdict is not None:
      # NumPy's False is not False.
      passed = held[rule.name] = None if verdict.passed is None else bool(verdict.passed)
      yield Check(name=rule.name, passed=passed, seen=verdict.seen, remedy=verdict.remedy)


def _own_steps(session: Session) -> Iterator[dict[str, float]]:
  """Yield the metrics of a few of the config's own steps.

  The same validation examples are evaluated before the first step and after each.
  """
  state, metrics = session.state, {}
  for step in range(session.few_steps + 1):
    if step:
      state, metrics = session.program("own_step")(state, session.settings, session.own_batch(step - 1))
    own = {name: float(value) for name, value in metrics.items()}
    yield {"step": step} | own | {f"validation/{name}": value for name, value in session.evaluate(state).items()}


def _parameter_lines(rows: tuple[Parameter, ...]) -> list[str]:
  cells = [("parameter", "shape", "dtype", "bytes", "mean", "std")]
  for row in rows:
    shape = "×".join(map(str, row.shape)) or "scalar"
    cells.append((row.name, shape, row.dtype, f"{row.bytes:,}", f"{row.mean:.2g}", f"{row.std:.2g}"))
  numbers, size = sum(math.prod(row.shape) for row in rows), sum(row.bytes for row in rows)
  return _aligned([*cells, (f"{len(rows)} arrays", f"{numbers:,} numbers", "", f"{size:,}", "", "")], left=3)


def _step_lines(steps: tuple[dict[str, float], ...]) -> list[str]:
  names = [name for name in dict.fromkeys(name for step in reversed(steps) for name in step) if name != "step"]
  rows = [[name, *(f"{step[name]:.4g}" if name in step else "" for step in steps)] for name in names]
  return _aligned([["after step", *(f"{step['step']:g}" for step in steps)], *rows], left=1)


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
  """Return lines of cells in columns: the first `left` columns are aligned left, the others right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(f"{cell:{'<' if i < left else '>'}{widths[i]}}" for i, cell in enumerate(row)).rstrip() for row in rows
  ]

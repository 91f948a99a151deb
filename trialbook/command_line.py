"""Parts that all commands have in common: flags, the form of their errors, and how they end."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from trialbook import errors, files
from trialbook.escaping import visible
from trialbook.naming import nearest
from trialbook.paths import PathError

_LONGEST = 2000
"""Characters of a problem that are printed; a value in it may have any number."""


class Parser(argparse.ArgumentParser):
  """Flags of a command: `--name=value` or `--name value`, never abbreviated, errors as `print_problems` writes them."""

  def __init__(self, *arguments: Any, **named: Any):
    named = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **named}
    super().__init__(*arguments, **named)
    # Of a command and its subcommand, the subcommand's wins: it knows the flags.
    self.set_defaults(parser=self)

  def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
    """Parse the arguments; exit with 2 and a message if they are wrong."""
    arguments = sys.argv[1:] if args is None else list(args)
    # First, since argparse would report only the required flag that the misspelt one was meant to be.
    self._check_flags(arguments)
    options, unknown = self.parse_known_args(arguments, namespace)
    if unknown:
      options.parser.error(f"unexpected argument {unknown[0]!r}")
    return options

  def _check_flags(self, arguments: Sequence[str]) -> None:
    parser = self
    for argument in arguments:
      below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
      if below and not argument.startswith("-"):
        if argument not in below[0].choices:
          parser.error(f"unknown command {argument!r}{nearest(argument, below[0].choices)}")
        parser = below[0].choices[argument]
      name = argument.partition("=")[0]
      known = [flag for action in parser._actions for flag in action.option_strings]
      if name.startswith("--") and name not in known:
        parser.error(f"unknown flag {name}{nearest(name, [flag for flag in known if flag.startswith('--')])}")

  def error(self, message: str) -> NoReturn:
    """Exit with 2 and the message."""
    sys.exit(print_problems(self.prog, [f"{message}; --help lists the flags"]))


def print_problems(command: str, problems: Iterable[str]) -> int:
  """Print what the user has to put right, a line each, to standard error; return the exit code."""
  problems = [errors.shortened(problem, _LONGEST) for problem in dict.fromkeys(problems)]
  count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
  warn("\n".join([f"{command}: {count}:", *(f"  - {problem}" for problem in problems)]))
  return errors.USER_MISTAKE


def warn(text: str) -> None:
  """Print text, of which parts may be of others, to standard error."""
  print(visible(text), file=sys.stderr)


def run(command: str, function: Callable[[], int]) -> int:
  """Call a command's function; return its exit code, or that of what it raised, which is printed. Bugs are raised."""
  try:
    return function()
  except errors.UserError as error:
    return print_problems(command, error.problems)
  except PathError as error:
    return print_problems(command, [str(error)])
  except errors.DataError as error:
    return print_problems(command, str(error).splitlines())
  except (NotADirectoryError, FileExistsError, PermissionError) as error:
    return print_problems(command, [f"{error.filename}: {error.strerror}"])
  except OSError as error:
    if (problem := files.limit_problem(error)) is None:
      raise
    return print_problems(command, [problem])
  except errors.TryAgainError as error:
    warn(f"{command}: {error}")
    return errors.exit_code(error)
  except KeyboardInterrupt as error:
    print(f"{command}: interrupted; rerun the same command to resume", file=sys.stderr)
    return errors.exit_code(error)


def positive(text: str) -> int:
  """Return a whole number from 1 on, for `Parser.add_argument(type=positive)`."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text!r} should be a whole number of at least 1")
  return int(text)


def at_least_zero(kind: type) -> Callable[[str], Any]:
  """Return a function for `Parser.add_argument(type=...)` that takes a number of this kind from 0 on."""

  def parse(text: str):
    value = kind(text)
    if not 0 <= value < float("inf"):
      raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return value

  parse.__name__ = {int: "whole number", float: "number"}[kind]
  return parse


def this_command() -> str:
  """Return the command line of this process, as a person would repeat it: `trialbook train --workdir=runs/first`."""
  arguments = sys.orig_argv[1:]
  if os.path.basename(arguments[0] if arguments else "") == "trialbook":
    return shlex.join(["trialbook", *arguments[1:]])
  if arguments[:2] == ["-m", "trialbook"]:
    return shlex.join(["trialbook", *arguments[2:]])
  return shlex.join(["python", *arguments])


def leave(code: int) -> NoReturn:
  """End the process with a code, also if the reader of its output has gone, for which Python would exit with 120."""
  try:
    sys.stdout.flush()
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  sys.exit(code)

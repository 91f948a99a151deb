"""`trialbook new`: a folder with a model, a task, a dataset, a config, a study and a test, which train at once."""

import pathlib
import re

from trialbook import errors, files
from trialbook.command_line import Parser, run
from trialbook.errors import UserError
from trialbook.paths import as_local_path

TEMPLATE = pathlib.Path(__file__).with_name("project_template")
NAME = "my_project"
"""Name of the project in the files of the template."""
DESCRIPTION = """Write a folder with a model, a task, a dataset, a config, a study and a test of your own to start from.

  trialbook new my_project
  cd my_project
  trialbook train --config=config.py --workdir=runs/first

All files are yours: change them as you like. README.md in the folder says what each is for.
"""


def main(arguments: list[str]) -> int:
  """Run the command; return its exit code."""
  parser = Parser(prog="trialbook new", description=DESCRIPTION)
  parser.add_argument("folder", metavar="DIR", type=as_local_path, help="folder to be made; its name is the project's")
  options = parser.parse_args(arguments)

  def command() -> int:
    create(options.folder)
    print(
      f"wrote {options.folder}; continue with\n\n  cd {options.folder}\n"
      "  trialbook train --config=config.py --workdir=runs/first"
    )
    return errors.DONE

  return run(parser.prog, command)


def create(folder: pathlib.Path) -> None:
  """Write the files of a new project.

  Raises:
    UserError: if there is such a folder already and it is not empty, or its name cannot be a project's.
  """
  name = folder.resolve().name
  if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
    raise UserError(f"{folder}: the name of a project has letters, digits, '_', '-' and '.', such as my_project")
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(f"{folder}: there is something of this name already; name a new folder")
  with files.replacing_folder(folder) as made:
    for path in sorted(TEMPLATE.glob("*.*")):
      text = path.read_text(encoding="utf-8").replace(NAME, name)
      (made / path.name).write_text(text, encoding="utf-8")

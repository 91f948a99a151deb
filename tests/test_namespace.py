"""One name, `trialbook`: from a wheel, from a checkout, and beside packages of the user's with our rooms' names."""

import ast
import importlib
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest
from in_process_command import run_command
from test_import_rules import ROOMS

import trialbook
from trialbook.__main__ import COMMANDS

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 240
NET = """
from flax import nnx


class MyNet(nnx.Module):
  def __init__(self, *, num_classes, input_shape, rngs):
    self.linear = nnx.Linear(input_shape[0] * input_shape[1], num_classes, rngs=rngs)

  def __call__(self, x):
    return self.linear(x.reshape(len(x), -1))
"""
SHORT = ("max_train_steps=2", "schedule.warmup_steps=0", "evaluation.every_steps=2", "export=false")
PYTHON = """
import trainer, tuning, launch, experiments, input_pipeline, models.my_net
from trialbook import Config, load, run

assert not hasattr(trainer, "run")
config = Config().override({"model.name": "models.my_net:MyNet", "max_train_steps": 2, "schedule.warmup_steps": 0})
print(run(config.override({"export": False}), "runs/python").status, load("runs/python").step)
"""


@pytest.fixture
def beside(tmp_path: pathlib.Path) -> pathlib.Path:
  """A folder of the user's, with a package for each of our rooms' names."""
  for room in ROOMS:
    (tmp_path / room).mkdir()
    (tmp_path / room / "__init__.py").write_text("")
  (tmp_path / "models" / "my_net.py").write_text(NET)
  return tmp_path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The wheel of this checkout."""
  folder = tmp_path_factory.mktemp("wheel")
  # From a copy: a build leaves files in the checkout.
  copy = folder / "checkout"
  names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
  for name in filter(None, names):
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    if (ROOT / name).is_symlink():
      (copy / name).symlink_to((ROOT / name).readlink())
    elif (ROOT / name).exists():
      (copy / name).write_bytes((ROOT / name).read_bytes())
  pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
  subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", str(folder), "."], cwd=copy, check=True, timeout=SECONDS)
  (made,) = folder.glob("*.whl")
  return made


def python(*arguments: str, cwd: pathlib.Path, path: pathlib.Path | None = None) -> str:
  """Run an interpreter as a user does, with a folder of packages before those of the environment; return its output."""
  environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  environment |= {"JAX_PLATFORMS": "cpu"} | ({} if path is None else {"PYTHONPATH": str(path)})
  done = subprocess.run(
    [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_one_package_with_all_rooms(wheel: pathlib.Path):
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    (top,) = [name for name in names if name.endswith("top_level.txt")]
    assert archive.read(top).decode().split() == ["trialbook"]
  tracked = subprocess.run(
    ["git", "ls-files", "--", *ROOMS, "trialbook/*.py"], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.split()
  wanted = {name if name.startswith("trialbook/") else f"trialbook/{name}" for name in tracked}
  assert wanted <= set(names)
  assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"trialbook"}


@pytest.mark.slow
@pytest.mark.parametrize("installed", [pytest.param("wheel", marks=pytest.mark.long), "checkout"])
def test_users_may_have_packages_of_our_rooms_names(
  beside: pathlib.Path, wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, installed: str
):
  path = None
  if installed == "wheel":
    path = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(path), str(wheel)], check=True, timeout=SECONDS)
  where = python("-c", "import trialbook; print(trialbook.__file__)", cwd=beside, path=path).strip()
  assert pathlib.Path(where).parent == (ROOT if path is None else path) / "trialbook"
  assert python("-c", PYTHON, cwd=beside, path=path).split() == ["complete", "2"]
  changes = [part for change in SHORT for part in ("--set", change)]
  command = ["train", "--workdir=runs/command", "--set", "model.name=models.my_net:MyNet", *changes]
  console = pathlib.Path(sys.executable).parent / "trialbook" if path is None else path / "bin" / "trialbook"
  assert "complete after 2 steps" in python(str(console), *command, cwd=beside, path=path)


@pytest.mark.slow
def test_a_room_of_the_checkout_says_what_it_is_imported_as():
  for room in ROOMS:
    done = subprocess.run(
      [sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {room} is imported as trialbook.{room}")


@pytest.mark.parametrize("package", ["trialbook", "trialbook.trainer", "trialbook.tuning", "trialbook.input_pipeline"])
def test_each_public_name_is_what_its_stub_says(package: str):
  module = importlib.import_module(package)
  stub = pathlib.Path(str(module.__file__)).with_suffix(".pyi")
  found = {}
  for node in ast.parse(stub.read_text()).body:
    if isinstance(node, ast.ImportFrom):
      for alias in node.names:
        assert alias.asname == alias.name, f"{package}: {ast.unparse(node)}: type checkers take no such name as public"
        found[alias.name] = getattr(importlib.import_module(f"{package}.{node.module}"), alias.name)
  assert set(module.__all__) == set(found)
  for name, value in found.items():
    assert getattr(module, name) is value


MISTAKES = {
  "help": ["--help"],
  "a misspelt flag": ["--no_such_flag=1"],
  "an argument too many": ["a", "b", "c", "d", "e"],
}
HEAVY = ("jax", "flax", "orbax", "numpy", "scipy", "pydantic")
ASKED = """
import sys
from trialbook.__main__ import main
try:
  code = main(sys.argv[1:])
except SystemExit as leaving:
  code = leaving.code
print(code, *sorted({heavy} & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_help_and_mistakes_in_flags_import_nothing_that_takes_time(mistake: str):
  subcommands = {"tune": ["run", "report", "import"], "launch": ["local"], "data": ["prepare"]}
  for command in COMMANDS:
    for below in [[], *([name] for name in subcommands.get(command, []))]:
      arguments = [command, *below, *MISTAKES[mistake]]
      last = python("-c", ASKED.format(heavy=set(HEAVY)), *arguments, cwd=ROOT).splitlines()[-1]
      assert last.split() == ["0" if mistake == "help" else "2"], arguments


STUDY = """
from trialbook import Linear, Grid, Minimize, Study

def bowl(x):
  return {"loss": x**2}

def get_study():
  return Study(name="bowl", goal="Where is it lowest?", function="study:bowl", objective=Minimize("loss"),
               nuisance={"x": Linear(-1.0, 1.0)}, search=Grid(3))
"""


@pytest.mark.slow
def test_the_coordinator_of_a_study_of_a_function_and_what_shows_it_import_neither_jax_nor_flax_nor_orbax(
  tmp_path: pathlib.Path,
):
  (tmp_path / "study.py").write_text(STUDY)
  asked = ASKED.format(heavy={"jax", "flax", "orbax"})
  for arguments in (
    ["run", "--study=study.py", "--dir=runs/bowl"],
    ["status", "runs/bowl"],
    ["best", "runs/bowl"],
    ["list", "runs"],
  ):
    last = python("-c", asked, "tune", *arguments, cwd=tmp_path).splitlines()[-1]
    assert last.split() == ["0"], arguments


TRAININGS = """
from trialbook import Config, Halton, Log, Minimize, Study

def get_study():
  return Study(name="rate", goal="Which rate?", objective=Minimize("validation/error"),
               config=Config(max_train_steps=20),
               nuisance={"optimizer.learning_rate": Log(1e-3, 1e-1)}, trials=2, search=Halton())
"""
PREPARED = """
import sys
from trialbook.tuning.execution.coordinator import prepare
from trialbook.tuning.study_files import load_study
prepare(load_study("study.py"))
from jax._src import xla_bridge
print(sorted({"flax", "orbax"} & set(sys.modules)), list(xla_bridge._backends))
"""


@pytest.mark.slow
def test_the_coordinator_of_a_study_of_trainings_imports_flax_for_its_config_and_starts_nothing(
  tmp_path: pathlib.Path,
):
  (tmp_path / "study.py").write_text(TRAININGS)
  # The settings of a model stand beside the model, so that a config needs flax.
  assert python("-c", PREPARED, cwd=tmp_path).splitlines()[-1] == "['flax'] []"


LONG = """
import trialbook.__main__ as command
command.main = lambda: print(10**6 * "x")
command.console()
"""


def test_a_reader_that_has_gone_is_not_an_error():
  script = f"set -o pipefail; {sys.executable} -c '{LONG}' | head -c 3"
  done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
  assert (done.returncode, done.stdout, done.stderr) == (0, "xxx", "")


def test_the_version_is_told():
  assert python("-m", "trialbook", "--version", cwd=ROOT).strip() == trialbook.__version__


def test_a_misspelt_flag_is_named_also_where_another_one_is_required(capsys: pytest.CaptureFixture[str]):
  for arguments, expected in (
    (["tune", "run", "--studdy=x"], "unknown flag --studdy; did you mean '--study'?"),
    (["train", "--wrokdir=x"], "unknown flag --wrokdir; did you mean '--workdir'?"),
    (["evaluate", "--stpe=1"], "unknown flag --stpe; did you mean '--step'?"),
    (["tune", "rum"], "unknown command 'rum'; did you mean 'run'?"),
    (["trian"], "unknown command 'trian'; did you mean 'train'?"),
  ):
    code, _, told = run_command(capsys, *arguments)
    assert code == 2
    assert expected in told


def test_the_flags_of_absls_logging_are_taken(capsys: pytest.CaptureFixture[str]):
  code, printed, _ = run_command(capsys, "train", "--verbosity=-1", "--print_config")
  assert code == 0
  assert "optimizer.learning_rate" in printed


def test_a_flag_counts_for_its_own_command_alone(capsys: pytest.CaptureFixture[str]):
  assert run_command(capsys, "train", "--set=seed=3", "--print_config")[0] == 0
  code, printed, told = run_command(capsys, "train")
  assert code == 2
  assert "--workdir is missing" in told
  assert not printed

"""A run is a function: of its config alone, callable many times, and the command is a thin wrapper around it."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest
from forked import ROOT, SECONDS, Forked
from json_lines import read_json_lines
from tiny import mlp, numbers, resnet

from trialbook.errors import ConfigError
from trialbook.trainer import Config, Programs, run


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_the_same_config_gives_the_same_bits(tmp_path: pathlib.Path):
  programs = Programs()
  run(resnet(), tmp_path / "a", programs=programs)
  run(resnet(seed=3), tmp_path / "b", programs=programs)
  run(resnet(), tmp_path / "c", programs=programs)
  assert numbers(tmp_path / "a") == numbers(tmp_path / "c")
  assert numbers(tmp_path / "a") != numbers(tmp_path / "b")


@pytest.mark.slow
def test_a_run_learns_and_says_what_it_came_to(tmp_path: pathlib.Path):
  config = mlp(max_train_steps=200, evaluation__every_steps=50, evaluation__test=True)
  result = run(config, tmp_path / "run")
  assert (result.status, result.exit_code, result.step) == ("complete", 0, 200)
  assert result.best["test/accuracy"] > 0.9
  lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
  assert [line["step"] for line in lines] == list(range(201))
  errors = {line["step"]: line["validation/error"] for line in lines if "validation/error" in line}
  assert list(errors) == [0, 50, 100, 150, 200]
  assert result.best_step == min(errors, key=lambda step: (errors[step], step))
  assert result.best["validation/error"] == min(errors.values())
  record = json.loads((tmp_path / "run" / "run.json").read_text())
  assert record["status"] == "complete"
  assert record["compilations"] == {"init": 1, "train_step": 1, "eval_step": 1}
  stored = json.loads((tmp_path / "run" / "config.json").read_text())
  assert stored.pop("format") == 1
  assert Config.model_validate_json(json.dumps(stored)) == config.resolved()


def test_a_diverging_run_is_infeasible_with_the_step_and_exit_code_3(tmp_path: pathlib.Path):
  result = run(mlp(optimizer__learning_rate=1e30), tmp_path / "run")
  assert (result.status, result.exit_code) == ("infeasible", 3)
  assert result.reason is not None
  assert f"at step {result.step}" in result.reason
  lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
  assert lines[-1]["step"] == result.step
  record = json.loads((tmp_path / "run" / "run.json").read_text())
  assert (record["status"], record["step"]) == ("infeasible", result.step)


@pytest.mark.slow
def test_averaging_is_evaluated_when_asked(tmp_path: pathlib.Path):
  programs = Programs()
  values = {}
  for what in ("average", "current"):
    config = resnet(averaging__decay=0.99, averaging__evaluate=what, optimizer__learning_rate=0.05)
    values[what] = run(config, tmp_path / what, programs=programs).metrics["validation/loss"]
  assert programs.compilations["eval_step"] == 1
  assert values["average"] != values["current"]


@pytest.mark.slow
def test_bfloat16_compute_keeps_float32_losses_and_learns(tmp_path: pathlib.Path):
  config = mlp(precision__compute_dtype="bfloat16", max_train_steps=200, evaluation__every_steps=200)
  assert run(config, tmp_path / "run").metrics["validation/accuracy"] > 0.85


@pytest.mark.slow
def test_bfloat16_parameters_train(tmp_path: pathlib.Path):
  config = mlp(precision__param_dtype="bfloat16", max_train_steps=100, evaluation__every_steps=100)
  assert run(config, tmp_path / "run").metrics["validation/accuracy"] > 0.7


@pytest.mark.slow
def test_regression_learns_and_says_that_its_data_is_synthetic(tmp_path: pathlib.Path):
  config = mlp(task__name="regression", max_train_steps=100).override(
    {"dataset.name": "synthetic", "dataset.kind": "regression", "optimizer.learning_rate": 0.01}
  )
  result = run(config, tmp_path / "run")
  first = read_json_lines(tmp_path / "run" / "metrics.jsonl")[0]
  assert result.metrics["validation/loss"] < first["validation/loss"]
  assert "SYNTHETIC" in (result.notice or "")
  assert "SYNTHETIC" in json.loads((tmp_path / "run" / "run.json").read_text())["notice"]


@pytest.mark.parametrize(
  ("changes", "fragments"),
  [
    ({"batch_size": 5000}, ["batch_size = 5000", "1297"]),
    ({"batch_size": 31}, ["batch_size = 31", "2 devices"]),
    ({"task.name": "regression"}, ["regression", "digits"]),
    ({"model.name": "no_such_module:Net", "batch_size": 5000}, ["no_such_module", "batch_size"]),
    ({"task.name": "no_such_module:Task"}, ["no_such_module"]),
    ({"selection.metric": "validation/eror"}, ["validation/eror", "did you mean 'validation/error'"]),
    ({"dataset.name": "fashion_mnist", "dataset.data_dir": "/nowhere"}, ["prepare fashion_mnist"]),
  ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
  tmp_path: pathlib.Path, changes: dict, fragments: list[str]
):
  with pytest.raises(ConfigError) as caught:
    run(mlp().override(changes), tmp_path / "run")
  for fragment in fragments:
    assert fragment in str(caught.value)
  assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path: pathlib.Path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ConfigError, match="cannot be written"):
    run(mlp(), tmp_path / "file" / "run")


def new(*arguments: str) -> subprocess.CompletedProcess[str]:
  """A command by a new interpreter."""
  return subprocess.run(
    [sys.executable, "-m", "trialbook", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
  )


@pytest.fixture
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
  """As `new`, without its imports."""
  output, errors = (tmp_path_factory.mktemp("printed") / name for name in ("output", "errors"))

  def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = Forked(["-m", "trialbook", *arguments], output, errors).wait()
    return subprocess.CompletedProcess(arguments, code, output.read_text(), errors.read_text())

  return run


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_the_command_gives_the_same_as_the_function(tmp_path: pathlib.Path):
  experiment = tmp_path / "experiment.py"
  experiment.write_text(
    f"import sys\nsys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\n"
    "import jax\njax.config.update('jax_num_cpu_devices', 2)\n"
    "import tiny\n\ndef get_config():\n  return tiny.mlp()\n"
  )
  changes = ("--set", "optimizer.learning_rate=0.2")
  done = new("train", f"--config={experiment}", f"--workdir={tmp_path / 'command'}", *changes)
  assert done.returncode == 0, done.stderr
  assert "validation/error" in done.stdout
  assert str(tmp_path / "command") in done.stdout
  run(mlp(optimizer__learning_rate=0.2), tmp_path / "function")
  assert numbers(tmp_path / "command") == numbers(tmp_path / "function")


MISTAKES = {
  "misspelt key": (["--set", "optimizer.learning_rat=0.1"], "did you mean 'learning_rate'?"),
  "wrong type": (["--set", "batch_size=many"], "batch_size = 'many'"),
  "two mistakes": (["--set", "clip_norm=-1", "--set", "batch_size=5000"], "2 problems"),
  "unknown model": (["--set", "model.name=resnett"], "did you mean 'resnet'?"),
  "no equals sign": (["--set", "foo"], "PATH=VALUE"),
  "plug-in missing": (["--set", "model.name=my_net:MyNet"], "my_net"),
  "unknown flag": (["--wrkdir=x"], "wrkdir"),
  "stray argument": (["train"], "train"),
  "file missing": (["--config=nowhere.py"], "no such file"),
  "syntax error": (["--config={tmp}/syntax.py"], "syntax.py:2"),
  "no get_config": (["--config={tmp}/empty.py"], "get_config"),
  "config that raises": (["--config={tmp}/raises.py"], "raises.py:2: ZeroDivisionError"),
  "invalid config": (["--config={tmp}/invalid.py"], "learning_rate = -1"),
  "workdir below a file": (["--workdir={tmp}/empty.py/run"], "cannot be written"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_users_mistake_is_one_message_exit_code_2_and_nothing_written(tmp_path: pathlib.Path, command, name: str):
  (tmp_path / "syntax.py").write_text("import trialbook\ndef get_config(:\n")
  (tmp_path / "empty.py").write_text("x = 1\n")
  (tmp_path / "raises.py").write_text("def get_config():\n  return 1 / 0\n")
  (tmp_path / "invalid.py").write_text(
    "from trialbook.trainer.optimizers import Adam\ndef get_config():\n  return Adam(learning_rate=-1.0)\n"
  )
  before = sorted(tmp_path.iterdir())
  arguments, fragment = MISTAKES[name]
  arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
  done = command("train", f"--workdir={tmp_path / 'run'}", *arguments)
  assert done.returncode == 2, done.stderr
  assert fragment in done.stderr
  assert "Traceback" not in done.stderr
  assert done.stdout == ""
  assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_diverging_command_leaves_with_3(tmp_path: pathlib.Path, command):
  done = command(
    "train",
    f"--workdir={tmp_path / 'run'}",
    *("--set", "model.name=mlp", "--set", "optimizer.learning_rate=1e30", "--set", "max_train_steps=60"),
  )
  assert done.returncode == 3, done.stderr
  assert "infeasible" in done.stdout


def test_print_config_and_help_explain(capsys: pytest.CaptureFixture[str]):
  from trialbook.trainer.summary import print_config

  print_config(Config())
  printed = capsys.readouterr().out
  for path, kind in (
    ("model.name", "static"),
    ("optimizer.learning_rate", "traced"),
    ("max_train_steps", "host"),
  ):
    assert any(line.split()[:2] == [path, kind] for line in printed.splitlines())
  done = new("train", "--help")
  assert done.returncode == 0
  for word in ("--config", "--workdir", "--set", "optimizer.learning_rate", "Exit codes"):
    assert word in done.stdout


def test_a_truncated_file_of_a_dataset_is_named(tmp_path: pathlib.Path):
  import gzip
  import struct

  folder = tmp_path / "fashion_mnist"
  folder.mkdir()
  for name, magic, shape in (
    ("train-images-idx3-ubyte", 0x803, (60000, 28, 28)),
    ("train-labels-idx1-ubyte", 0x801, (60000,)),
    ("t10k-images-idx3-ubyte", 0x803, (10000, 28, 28)),
    ("t10k-labels-idx1-ubyte", 0x801, (10000,)),
  ):
    (folder / f"{name}.gz").write_bytes(gzip.compress(struct.pack(f">i{len(shape)}i", magic, *shape) + bytes(100)))
  changes = {"dataset.name": "fashion_mnist", "dataset.data_dir": str(tmp_path)}
  with pytest.raises(ConfigError) as caught:
    run(mlp().override(changes), tmp_path / "run")
  assert "train-images-idx3-ubyte.gz" in str(caught.value)
  assert "t10k-labels-idx1-ubyte.gz" in str(caught.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_evaluate_command_prints_what_the_run_recorded(tmp_path: pathlib.Path, command):
  done = command("train", f"--workdir={tmp_path / 'run'}", "--set", "model.name=mlp", "--set", "max_train_steps=60")
  assert done.returncode == 0, done.stderr
  evaluate = f"trialbook evaluate {tmp_path / 'run'} --step=best --split=test"
  assert evaluate in done.stdout
  done = new("evaluate", str(tmp_path / "run"), "--step=best")
  assert done.returncode == 0, done.stderr
  best = json.loads((tmp_path / "run" / "best.json").read_text())
  printed = json.loads(done.stdout)
  assert (printed["step"], printed["validation/error"]) == (best["step"], best["value"])
  for arguments in ((str(tmp_path / "nowhere"),), (str(tmp_path / "run"), "--step=7")):
    done = command("evaluate", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_platform_that_is_not_here_is_refused(tmp_path: pathlib.Path, command):
  done = command("train", f"--workdir={tmp_path / 'run'}", "--platform=tpu")
  assert done.returncode == 2
  assert "--platform=tpu" in done.stderr
  assert not (tmp_path / "run").exists()

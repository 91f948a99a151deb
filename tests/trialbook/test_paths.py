"""`~` is the home directory, in every path of a config, a command and a function: one place makes texts paths."""

import argparse
import ast
import importlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from absl import flags
from in_process import run_in_process
from in_process_command import run_command
from test_import_rules import ROOMS, ROOT
from tiny import mlp

from trialbook import __main__ as console
from trialbook import trainer
from trialbook.command_line import Parser
from trialbook.errors import ConfigError, DataError
from trialbook.input_pipeline import AnyDataset, Text, Tfds, load
from trialbook.input_pipeline.datasets.tokens import Tokens
from trialbook.models import TransformerConfig
from trialbook.object_store import StorePath
from trialbook.paths import PathError, as_local_path, as_path
from trialbook.settings import Settings, leaves
from trialbook.trainer import Config, Programs, run
from trialbook.trainer import flags as training_flags
from trialbook.trainer.checkpoints import warm_start
from trialbook.trainer.compilation_cache import enable_compilation_cache
from trialbook.trainer.config import WarmStart
from trialbook.trainer.schedules import Constant
from trialbook.trainer.tasks import LanguageModel
from trialbook.tuning import Grid, Linear, Minimize, Study, read_results, report, run_study

NOT_PATHS = {
  *("name", "metric", "step", "train", "validation", "test", "parameters", "decode", "input_feature", "label_feature"),
  *("function", "evaluated_params", "mask"),
}
"""Settings that are texts and name no file. A new text is one of these, or a `FilePath`."""
NOT_PATH_FLAGS = {
  *(
    "list project",
    "list zone",
    "logs job",
    "logs project",
    "logs zone",
    "resume job",
    "resume project",
    "resume zone",
    "status job",
    "status project",
    "status zone",
    "stop job",
    "stop project",
    "stop zone",
    "tpu-vm accelerator_type",
    "tpu-vm create_flag",
    "tpu-vm env",
    "tpu-vm project",
    "tpu-vm python",
    "tpu-vm runtime_version",
    "tpu-vm zone",
  ),
  "evaluate split",
  *("dataset", "objective", "name", "goal", "slurm", "rename", "step"),
  "write function",
  "import study",  # Of an Optuna storage.
  "import source",  # It may be sqlite:///FILE; the importers make it a path.
  *("set", "skip", "only"),
  "max-steps metric",
  "preflight topology",
  *("memory", "partition", "account", "setup"),  # Of a job of Slurm.
}
NOT_PATH_ABSL_FLAGS = {"set", "debug", "profile", "coordinator", "platform"}


@pytest.fixture(name="home")
def home_and_empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
  """A home directory, while the current directory is another, in which nothing may appear."""
  home, here = tmp_path / "home", tmp_path / "here"
  home.mkdir()
  here.mkdir()
  monkeypatch.setenv("HOME", str(home))
  monkeypatch.chdir(here)
  yield home
  assert list(here.iterdir()) == []


def settings_kinds() -> list[type[Settings]]:
  """All kinds of settings there are."""
  for module in ("trainer.config", "tuning.study"):
    importlib.import_module(f"trialbook.{module}")
  found = Settings.__subclasses__()
  for kind in found:
    found += kind.__subclasses__()
  return [kind for kind in found if kind.__module__.startswith("trialbook.")]


PATH_FIELDS = [
  (kind, name) for kind in settings_kinds() for name, field in kind.model_fields.items() if "path" in field.metadata
]


def test_a_text_is_a_path_with_the_home_directory_in_place_of_the_tilde(home: pathlib.Path):
  assert as_path("~") == home
  assert as_path("~/runs/t") == home / "runs" / "t"
  assert as_path(pathlib.Path("~/runs")) == home / "runs"
  assert as_path("runs/~/t") == pathlib.Path("runs/~/t")
  with pytest.raises(PathError, match="the home directory ~nobody-here is not known on this machine"):
    as_path("~nobody-here/runs")
  with pytest.raises(PathError, match="is empty; name a file or a folder"):
    as_path("")


def test_every_setting_that_is_a_text_is_a_path_or_known_to_be_none():
  texts = [
    (kind, name, field)
    for kind in settings_kinds()
    for name, field in kind.model_fields.items()
    if field.annotation in (str, str | None)
  ]
  assert len(texts) > 15
  undecided = [f"{kind.__name__}.{name}" for kind, name, field in texts if "path" not in field.metadata]
  assert [field for field in undecided if field.partition(".")[2] not in NOT_PATHS] == []
  assert {name for _, name in PATH_FIELDS} == {"path", "validation_path", "data_dir", "source", "compilation_cache"}


def dataset_at(kind: Any, field: str, text: str) -> Any:
  needed = {Tfds: {"name": "tfds:mnist"}, Tokens: {"vocabulary": 8, "path": text}}
  return kind(**{**needed.get(kind, {}), field: text})


def consume(kind: Any, field: str, text: str) -> pathlib.Path | str:
  """What a setting's own code makes of its text: a path, or a message with it."""
  if kind is Config:
    before = jax.config.values["jax_compilation_cache_dir"]
    try:
      jax.config.update("jax_compilation_cache_dir", None)
      enable_compilation_cache(text)
      return jax.config.values["jax_compilation_cache_dir"]
    finally:
      jax.config.update("jax_compilation_cache_dir", before)
  if kind is WarmStart:
    return str(warm_start.find(kind(source=text)))
  with pytest.raises(DataError) as caught:
    load(dataset_at(kind, field, text), seed=0, batch_size=1)
  return str(caught.value)


@pytest.mark.parametrize(("kind", "field"), PATH_FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name in PATH_FIELDS])
def test_every_path_of_a_config_may_begin_with_the_home_directory(home: pathlib.Path, kind: type[Settings], field: str):
  """Also one that is yet to be declared: it is found by its type."""
  (home / "given" / "checkpoints" / "7").mkdir(parents=True)
  (home / "given" / "config.json").write_text("{}")
  assert str(home / "given") in str(consume(kind, field, "~/given/checkpoints/7"))


def test_a_config_is_refused_for_a_path_that_is_none_wherever_it_stands():
  for changes in (
    {"dataset.name": "text", "dataset.path": "~nobody-here/text"},
    {"dataset.name": "fashion_mnist", "dataset.data_dir": "~nobody-here/data"},
    {"warm_start.source": "~nobody-here/run"},
    {"compilation_cache": "~nobody-here/cache"},
  ):
    with pytest.raises(ConfigError, match="the home directory ~nobody-here is not known") as caught:
      mlp().override(changes)
    assert [*changes][-1] in str(caught.value)
  for kind, field in PATH_FIELDS:
    if issubclass(kind, AnyDataset):
      with pytest.raises(DataError, match="~nobody-here is not known"):
        load(dataset_at(kind, field, "~nobody-here/data"), seed=0, batch_size=1)
  with pytest.raises(ConfigError, match=r"warm_start.source.*~nobody-here is not known"):
    warm_start.find(WarmStart(source="~nobody-here/run"))
  with pytest.raises(ConfigError, match="compilation_cache = '': is empty"):
    mlp().override({"compilation_cache": ""})


def parsers(monkeypatch: pytest.MonkeyPatch) -> Iterator[argparse.ArgumentParser]:
  """The parsers of all commands, with those of their subcommands."""
  made: list[argparse.ArgumentParser] = []

  def capture(self: argparse.ArgumentParser, *_: Any) -> Any:
    made.append(self)
    raise KeyError("captured")

  monkeypatch.setattr(Parser, "parse_args", capture)
  for module, function in (place.split(":") for place, _ in console.COMMANDS.values()):
    if (module, function) == ("trialbook.trainer.flags", "train"):
      continue  # Its flags are absl's.
    with pytest.raises(KeyError, match="captured"):
      getattr(importlib.import_module(module), function)([])
  while made:
    parser = made.pop()
    yield parser
    for action in parser._actions:
      if isinstance(action, argparse._SubParsersAction):
        made += action.choices.values()


def test_every_argument_that_is_a_text_is_a_path_or_known_to_be_none(monkeypatch: pytest.MonkeyPatch):
  found = [(parser.prog.split()[-1], action) for parser in parsers(monkeypatch) for action in parser._actions]
  paths = {action.dest for _, action in found if action.type in (as_path, as_local_path)}
  assert paths >= {"workdir", "dir", "dirs", "root", "to", "output", "found_in", "data_dir", "space", "study"}
  undecided = [
    f"{command} {action.dest}"
    for command, action in found
    if action.choices is None and action.nargs != 0 and action.type in (None, str, pathlib.Path)
  ]
  assert [name for name in undecided if not {name, name.split()[-1]} & NOT_PATH_FLAGS] == []


PROCEDURES = (
  "adopt",
  "autopilot",
  "baseline",
  "batch-size",
  "clip",
  "finish",
  "max-steps",
  "stability",
  "steps-to-target",
)
IN_STORES = {
  *(f"{name} config" for name in (*PROCEDURES, "warmup")),
  *("adopt candidate", "adopt study", "best dir", "compare dirs", "compare output", "evaluate workdir", "export to"),
  *("export workdir", "finish study", "goodput workdir", "index root", "list root", "local workdir", "next dir"),
  *("preflight info_from", "profile workdir", "report dir", "report output", "rerun dir", "run dir", "show dir"),
  *("logs workdir", "resume workdir", "status dir", "status workdir", "stop workdir", "trial dir"),
}
"""Arguments that may be in an object store, as docs/object_storage.md has them."""
NOT_IN_STORES = {
  *(f"{name} dir" for name in (*PROCEDURES, "warmup", "import")),
  *("adopt record", "finish looks", "import space", "new folder", "next output", "preflight compare"),
  *("preflight config", "preflight html", "preflight json", "prepare data_dir", "prepare found_in", "run study"),
  *("slurm logs", "write to"),
}
"""Arguments that are refused there, with exit code 2."""


def test_every_path_of_a_command_may_be_in_a_store_or_is_refused_there(monkeypatch: pytest.MonkeyPatch):
  found = [(parser.prog.split()[-1], action) for parser in parsers(monkeypatch) for action in parser._actions]
  assert {f"{command} {action.dest}" for command, action in found if action.type is as_path} == IN_STORES
  assert {f"{command} {action.dest}" for command, action in found if action.type is as_local_path} == NOT_IN_STORES


def test_every_flag_of_a_training_that_is_a_text_is_a_path_or_known_to_be_none(home: pathlib.Path):
  own = flags.FLAGS.get_flags_for_module(training_flags.__name__)
  paths = {flag.name for flag in own if flag.flag_type() == "path"}
  texts = {flag.name for flag in own if flag.flag_type() not in ("path", "bool", "int")}
  assert paths == {"config", "workdir", "fork", "secret_file"}
  assert texts == NOT_PATH_ABSL_FLAGS
  for flag in own:
    if flag.name in paths:
      assert flag.parser.parse("~/x") == home / "x"
      if flag.name == "secret_file":
        with pytest.raises(PathError, match="is in an object store"):
          flag.parser.parse("gs://bucket/x")
      else:
        assert flag.parser.parse("gs://bucket/x") == StorePath("gs://bucket/x")
  assert training_flags.train(["--workdir=~nobody-here/run"]) == 2


AGENT = "launch/remote/agent.py"
FOUND = {
  "launch/remote/shipping.py: trialbook.__file__",
  "launch/remote/agent.py: f'/proc/{pid}/stat'",
  "launch/remote/agent.py: '/'",
  "launch/tpu_vm/controller.py: exits",
  "launch/remote/attempt.py: name",
  "launch/tpu_vm/launching.py: 'requirements.lock'",
  "launch/remote/ssh_hosts.py: agent.__file__",
  "launch/remote/shipping.py: _git(folder, 'rev-parse', '--show-toplevel').decode().rstrip('\\n')",
  "launch/tpu_vm/controller.py: job['workdir']",
  "launch/remote/agent.py: '/proc'",
  "launch/remote/agent.py: f'/proc/{pid}/cmdline'",
  "launch/remote/shipping.py: folder",
  "input_pipeline/cache.py: tempfile.mkdtemp(dir=folder.parent, prefix=f'.{dataset}.')",
  "input_pipeline/datasets/digits.py: package.submodule_search_locations[0]",
  "input_pipeline/datasets/table.py: package.submodule_search_locations[0]",
  "input_pipeline/datasets/text.py: package.submodule_search_locations[0]",
  "input_pipeline/datasets/tfds.py: as_array_record(one.filename)",
  "input_pipeline/datasets/tfds.py: one.filename",
  "input_pipeline/datasets/tfds_preparation.py: tfds.as_array_record(folder / filename)",
  "launch/local.py: exit_folder",
  "launch/preflight/request.py: 'the report of the compiler'",
  "launch/preflight/page.py: __file__",
  "launch/preflight/request.py: folder",
  "trainer/config_files.py: __file__",
  "trainer/debug/session.py: name",
  "trainer/hosts/shutdown_guard.py: folder",
  "trainer/timing.py: 'profile'",
  "trainer/workdir/provenance.py: module.__file__",
  "trainer/workdir/provenance.py: trialbook.__file__",
  "trialbook/files.py: name",
  "trialbook/import_attribute.py: __file__",
  "trialbook/lease.py: '/proc/sys/kernel/random/boot_id'",
  "trialbook/lease.py: f'/proc/{pid}/stat'",
  "trialbook/new_project.py: __file__",
  "trialbook/project_template/study.py: __file__",
  "trialbook/project_template/test_project.py: __file__",
  "trialbook/spool.py: self._temporary.name",
  "tuning/advice_benchmark/planted.py: 'planted'",
  "tuning/execution/planned_study.py: name",
  "tuning/execution/local_workers.py: '/proc/driver/nvidia/gpus'",
  "tuning/execution/training.py: folder",
  "tuning/importers/algoperf.py: at",
  "tuning/importers/trial_tables.py: 'study.json'",
  "tuning/importers/writing.py: name",
  "tuning/procedures/commands.py: name",
  "trainer/device_memory.py: '/proc/meminfo'",
  "trainer/device_memory.py: '/sys/fs/cgroup'",
  "tuning/procedures/step_measurement.py: name",
  "tuning/procedures/step_measurement.py: sys.argv[1]",
  "tuning/procedures/autopilot_logbook.py: reporting.__file__",
  "tuning/procedures/report.py: reporting.__file__",
  "tuning/reporting/html.py: __file__",
  "tuning/reporting/index.py: __file__",
}
"""What else becomes a path: what this code has found, made or been told by itself, and no text of a user's."""


def sources() -> Iterator[tuple[str, ast.Module]]:
  for path in sorted(path for room in [*ROOMS, "trialbook"] for path in (ROOT / room).rglob("*.py")):
    if path != ROOT / "trialbook" / "paths.py":
      yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


@pytest.mark.slow
def test_no_other_place_makes_a_path_of_a_text_that_a_user_gave():
  found, wrong = set(), []
  for file, module in sources():
    for node in ast.walk(module):
      # The agent runs on machines that have nothing of ours.
      if isinstance(node, ast.Attribute) and node.attr in ("expanduser", "expandvars") and file != AGENT:
        wrong.append(f"{file}:{node.lineno}: {ast.unparse(node)}")
      if isinstance(node, ast.Call):
        if ast.unparse(node.func) in ("pathlib.Path", "Path"):
          found.add(f"{file}: {ast.unparse(node.args[0])}")
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        wrong += [f"{file}:{node.lineno}: {ast.unparse(node)}" for one in given if ast.unparse(one) == "pathlib.Path"]
  assert wrong == []
  assert found == FOUND


@pytest.mark.slow
def test_every_function_that_takes_a_path_as_a_text_makes_it_a_path_before_it_uses_it():
  """Or hands it on to a function that does."""
  wrong, checked = [], 0
  for file, module in sources():
    for function in ast.walk(module):
      if not isinstance(function, ast.FunctionDef):
        continue
      arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
      for argument in arguments:
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        if "str | pathlib.Path" in kind or "os.PathLike" in kind:
          checked += 1
          body = ast.unparse(function)
          if not re.search(rf"as_(local_)?path\({argument.arg}\)", body) and re.search(
            rf"\b{argument.arg}(\.| /)", body
          ):
            wrong.append(f"{file}:{function.lineno}: {function.name} uses {argument.arg} without as_path")
  assert wrong == []
  assert checked > 15


def offered(x: float) -> dict[str, float]:
  """The function of a study."""
  return {"loss": x}


@pytest.mark.slow
def test_runs_and_studies_lie_in_the_home_directory_when_it_is_asked_for(
  home: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  (home / "text").write_bytes(bytes(range(97, 107)) * 400)
  config = mlp(evaluation__every_steps=2, max_train_steps=2, logging__tensorboard=False).model_copy(
    update={
      "dataset": Text(path="~/text", length=8),
      "task": LanguageModel(),
      "model": TransformerConfig(width=8, depth=1, heads=2, mlp_ratio=1.0),
      "schedule": Constant(),
    }
  )
  programs = Programs()
  assert run(config, "~/runs/first", programs=programs).workdir == home / "runs" / "first"
  assert trainer.load("~/runs/first").step == 2
  warm = config.override({"warm_start.source": "~/runs/first"})
  assert run(warm, "~/runs/warm", programs=programs).status == "complete"
  forked = config.override({"max_train_steps": 4})
  assert run(forked, "~/runs/forked", programs=programs, fork="~/runs/first").step == 4
  monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
  study = Study(
    name="s",
    goal="Where?",
    function=f"{pathlib.Path(__file__).stem}:offered",
    objective=Minimize("loss"),
    nuisance={"x": Linear(0.0, 1.0)},
    search=Grid(2),
  )
  run_study(study, "~/runs/study", executor=run_in_process)
  assert read_results("~/runs/study").folder == home / "runs" / "study"
  assert report("~/runs/study", "~/page.json", format="json") == home / "page.json"
  code, printed, _ = run_command(capsys, "evaluate", "~/runs/first")
  assert code == 0
  assert '"step": 2' in printed
  assert {path for path, _, field, _ in leaves(config) if "path" in field.metadata} == {
    "dataset.path",
    "compilation_cache",
  }

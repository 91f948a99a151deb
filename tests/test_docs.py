"""The documentation is true: its commands run, its links lead somewhere, its names exist."""

import ast
import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import io
import itertools
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from test_import_rules import MAY_IMPORT, ROOMS

import trialbook
from trialbook import errors
from trialbook.__main__ import COMMANDS, main
from trialbook.trainer import load_config
from trialbook.trainer.config_files import DEFAULT
from trialbook.trainer.overrides import parse_assignments

ROOT = pathlib.Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LIBRARIES = {"other_libraries": ("equinox", "haiku")}
"""Pages that need packages which do not come with trialbook; they are extras of the tests."""
PLAYED = sorted(
  (
    page
    for page in TUTORIALS.glob("*.md")
    if all(importlib.util.find_spec(name) for name in LIBRARIES.get(page.stem, ()))
  ),
  key=lambda page: page.stat().st_size,
  reverse=True,
)
"""The longest first, so that two that are played at a time end together."""
SECONDS = 300
"""The longest that a command may take."""
REFERENCES = [ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in ("design", "features", "playbook"))]
# Every id that the project gives to what the playbook asks for.
IDS = {
  f"PB-{number:02}"
  for first, last in ((1, 8), (10, 17), (20, 33), (40, 44), (60, 63), (65, 72), (80, 84), (90, 90))
  for number in range(first, last + 1)
}


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block: its language, its text, and what is to be done with it.

  Attributes:
    how: "" to run it, "no-test" not to, "Ctrl-C" to run and interrupt it.
  """

  language: str
  how: str
  text: str


def blocks(page: pathlib.Path) -> list[Block]:
  found = re.findall(r"^```(\w+)(.*)\n((?:.*\n)*?)^```$", page.read_text(), re.MULTILINE)
  assert {rest.strip() for _, rest, _ in found} <= {"", "no-test", "Ctrl-C"}, name(page)
  return [Block(language, rest.strip(), text) for language, rest, text in found]


def prose(page: pathlib.Path) -> str:
  return re.sub(r"^```(?:.*\n)*?```$", "", page.read_text(), flags=re.MULTILINE)


def name(page: pathlib.Path) -> str:
  return str(page.relative_to(ROOT))


def play(page: pathlib.Path, folder: pathlib.Path) -> None:
  """Does in an empty folder what a reader of the page would do, in order.

  A `python` block that begins with `# name.py` is a file (in the page on models, the first one is `my_net.py`),
  any other a program. A `diff` changes `my_net.py`. A `text` has lines of what the `sh` block before it prints.
  """
  environment = os.environ | {
    "PYTHONPATH": str(ROOT),
    "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
  }

  def run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{name(page)}: {command[-1]}\n{done.stderr}"
    return done.stdout + done.stderr

  if page.stem == "algoperf":
    # It speaks of files of a checkout.
    (folder / "experiments").symlink_to(ROOT / "experiments")
  printed, model = "", folder / "my_net.py"
  for block in blocks(page):
    if block.how == "no-test":
      continue
    file = re.match(r"# (\w+\.py)\n", block.text)
    if block.language == "python" and page.stem == "your_own_model" and not model.exists():
      model.write_text(block.text)
    elif block.language == "python" and file:
      (folder / file[1]).write_text(block.text)
    elif block.language == "python":
      run([sys.executable, "-c", block.text])
    elif block.language == "diff":
      model.write_text(patched(model.read_text(), block.text))
      # What comes next shows what is compiled; in a cache that earlier tests have filled, nothing ever would be.
      environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
    elif block.how == "Ctrl-C":
      printed = interrupted(block.text, folder, environment)
    elif block.language == "sh":
      printed = "".join(run(["bash", "-c", line]) for line in block.text.splitlines())
    elif block.language == "text":
      missing = [line for line in block.text.splitlines() if line not in printed.splitlines()]
      assert not missing, f"{name(page)}: not printed: {missing}, but:\n{printed}"
    else:
      pytest.fail(f"{name(page)}: a block of {block.language}")


# Where the tests run in the background, shells have them ignore Ctrl-C, and so their children.
HEARING_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp("bash", ["bash", "-c", sys.argv[1]])
"""


def interrupted(command: str, folder: pathlib.Path, environment: Mapping[str, str]) -> str:
  """Starts a run, presses Ctrl-C when it has a checkpoint after step 0, and returns what it printed."""
  checkpoints = folder / re.findall(r"--workdir=(\S+)", command)[0] / "checkpoints"
  process = subprocess.Popen(
    [sys.executable, "-c", HEARING_CTRL_C, command],
    cwd=folder,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )
  try:
    latest = time.monotonic() + SECONDS
    while process.poll() is None and not list(checkpoints.glob("[1-9]*[0-9]")) and time.monotonic() < latest:
      time.sleep(0.01)
    # As a terminal does: to the whole group.
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=SECONDS)
  finally:
    process.kill()
  assert process.returncode == errors.INTERRUPTED, f"{command}\n{output}"
  return output


def patched(text: str, diff: str) -> str:
  """The text with each removed line replaced by the added one after it; an added line at the start goes on top."""
  lines = diff.splitlines()
  top = [line[1:] for line in lines[: next(i for i, line in enumerate(lines) if line.startswith("-"))]]
  rest = lines[len(top) :]
  for removed, added in zip(rest[::2], rest[1::2], strict=True):
    assert (removed[0], added[0]) == ("-", "+")
    assert text.count(removed[1:]) == 1, removed
    text = text.replace(removed[1:], added[1:])
  return "\n".join([*top, text])


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], pathlib.Path]]:
  """Plays all tutorials, two at a time, since most of it is starting up; gives the folder of one by its name."""
  folders = {page.stem: tmp_path_factory.mktemp(page.stem) for page in PLAYED}
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    playing = {page.stem: pool.submit(play, page, folders[page.stem]) for page in PLAYED}

    def folder(stem: str) -> pathlib.Path:
      playing[stem].result()
      return folders[stem]

    yield folder


def record(run: pathlib.Path, file: str = "run.json") -> dict[str, Any]:
  return json.loads((run / file).read_text())


@pytest.mark.slow
def test_the_readme_does_what_it_says(tmp_path: pathlib.Path):
  play(ROOT / "README.md", tmp_path)
  assert len(list(tmp_path.glob("runs/*/run.json"))) == 4
  assert len(list(tmp_path.glob("runs/*/export/card.json"))) == 4


@pytest.mark.long
def test_a_first_run_leaves_what_the_design_says(played: Callable[[str], pathlib.Path]):
  runs = played("first_run") / "runs"
  design = (ROOT / "docs" / "design.md").read_text()
  assert set(record(runs / "first")) == fields("run.json") - {"changed", "earlier"}
  assert set(record(runs / "slower")) == fields("run.json")
  assert set(record(runs / "first", "best.json")) == fields("best.json")
  lines = [json.loads(line) for line in (runs / "first" / "metrics.jsonl").read_text().splitlines()]
  metrics = {metric for line in lines for metric in line} | set(record(runs / "first", "best.json")["final"])
  for metric in metrics - {"step"}:
    split, _, own = metric.rpartition("/")
    assert f"`{metric}`" in design or (f"`{split}/…`" in design and f"`{own}`" in design), f"{metric} is not described"


def fields(file: str) -> set[str]:
  """The fields of a file in the workdir by the design's table of them."""
  design = (ROOT / "docs" / "design.md").read_text()
  rows = design[design.index(f"\n| field of `{file}` |") :].strip().partition("\n\n")[0].splitlines()[2:]
  return {word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[1])}


@pytest.mark.long
def test_a_run_that_was_interrupted_has_gone_on(played: Callable[[str], pathlib.Path]):
  resumed = record(played("first_run") / "runs" / "slower")
  assert (resumed["status"], resumed["step"], resumed["restored_step"]) == ("complete", 400, 200)
  assert [earlier["status"] for earlier in resumed["earlier"]] == ["stopped"]


@pytest.mark.long
def test_every_file_in_a_workdir_is_in_the_table_of_the_design(played: Callable[[str], pathlib.Path]):
  design = (ROOT / "docs" / "design.md").read_text()
  table = design[design.index("\n## The workdir") :].partition("\n| file | holds |")[2].partition("\n\n")[0]
  documented = {file.partition("/")[0] for file in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)}
  workdirs = [*(played("first_run") / "runs").iterdir(), *(played("fine_tune") / "runs").iterdir()]
  files = {path.name for workdir in workdirs for path in workdir.iterdir()}
  # Nobody profiles on these pages.
  assert {re.sub(r"(?<=tfevents\.).*", "*", file) for file in files} == documented - {"profile"}


@pytest.mark.long
def test_fine_tuning_freezes_and_forks_as_it_says(played: Callable[[str], pathlib.Path]):
  runs = played("fine_tune") / "runs"
  assert len((TUTORIALS / "fine_tune.md").read_text().splitlines()) < 60
  forked, source = record(runs / "forked"), record(runs / "forked", "fork.json")
  assert (forked["restored_step"], forked["step"], source["step"]) == (100, 150, 100)
  assert source["source"] == str(runs / "source")
  row = re.findall(r"^\| `fork.json` \|(.*)\|$", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
  assert set(source) == set(re.findall(r"`(\w+)`", row[0]))


@pytest.mark.long
@pytest.mark.parametrize(
  "page",
  [
    *("algoperf", "any_model", "data_as_you_have_it", "debug_a_run", "first_project", "from_zero_to_tuned"),
    *("import_a_study", "other_libraries", "pretrained_weights", "report", "tune", "your_own_data"),
    *("your_own_metrics", "your_own_optimizer"),
  ],
)
def test_the_other_tutorials_do_what_they_say(played: Callable[[str], pathlib.Path], page: str):
  for library in LIBRARIES.get(page, ()):
    pytest.importorskip(library)
  assert list(played(page).iterdir())


@pytest.mark.long
def test_your_own_model_trains_and_another_traced_rate_compiles_nothing(played: Callable[[str], pathlib.Path]):
  runs = played("your_own_model") / "runs"
  assert [record(runs / run)["compilation_cache_hits"] for run in ("traced", "again")] == [0, 3]
  for run in ("net", "traced", "again"):
    assert (runs / run / "export" / "model.stablehlo").is_file()
  traced, again = ((runs / run / "metrics.jsonl").read_text() for run in ("traced", "again"))
  assert numbers(traced) != numbers(again)


def numbers(lines: str) -> list[float]:
  return [line["train/loss"] for line in map(json.loads, lines.splitlines()) if line["step"]]


def test_your_own_model_is_short_and_its_file_imports_nothing_of_ours():
  page = TUTORIALS / "your_own_model.md"
  assert len(page.read_text().splitlines()) < 40
  first = next(block for block in blocks(page) if block.language == "python")
  imported = {
    module.partition(".")[0]
    for node in ast.walk(ast.parse(first.text))
    for module in (
      [alias.name for alias in node.names]
      if isinstance(node, ast.Import)
      else [node.module or ""]
      if isinstance(node, ast.ImportFrom)
      else []
    )
  }
  assert imported == {"jax", "flax"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: pathlib.Path):
  for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
    if target.startswith("https://"):
      continue
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    assert file.exists(), f"{name(page)}: {target}"
    if anchor:
      headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
      assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def _module(path: str) -> str:
  """The module of a file in the repository: those of a room are in the package by a link."""
  name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
  return f"trialbook.{name}" if name.partition(".")[0] in ROOMS else name


@pytest.mark.parametrize("page", REFERENCES, ids=name)
def test_every_place_in_the_code_exists(page: pathlib.Path):
  for path, attribute in re.findall(r"`(\w+(?:/\w+)+\.py)(?::([\w.]+))?`", page.read_text()):
    assert (ROOT / path).is_file(), f"{name(page)}: {path}"
    if attribute:
      place: Any = importlib.import_module(_module(path))
      for part in attribute.split("."):
        known = hasattr(place, part) or part in getattr(place, "__annotations__", {})
        assert known, f"{name(page)}: {path} has no {attribute}"
        place = getattr(place, part, None)


def commands(page: pathlib.Path) -> list[str]:
  """The command lines of a page, from its blocks and from the middle of its sentences."""
  lines = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
  return [*lines, *code_in_sentences(page)]


def code_in_sentences(page: pathlib.Path) -> list[str]:
  return re.findall(r"`([^`\n]+)`", prose(page))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_is_accepted(page: pathlib.Path):
  for command in commands(page):
    # A command that shows its exit code is one that is meant to fail.
    if "--set " not in command or "exit code" in command:
      continue
    words = shlex.split(command)
    settings = [after for word, after in itertools.pairwise(words) if word == "--set"]
    load_config(DEFAULT).override(parse_assignments(settings))


@functools.cache
def help_of(*command: str) -> str:
  """What `trialbook COMMAND --help` prints; fails if there is no such command."""
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    try:
      code = main([*command, "--help"])
    except SystemExit as end:
      code = end.code
  assert code == 0, f"there is no command {' '.join(command)}"
  return printed.getvalue()


def flags_of(*command: str) -> set[str]:
  return set(re.findall(r"^ +(?:-h, )?--(?:\[no\])?(\w+)", help_of(*command), re.MULTILINE))


def parts(command: str) -> list[str]:
  """The commands that another one has, such as `run` of `tune`."""
  usage = help_of(command).splitlines()[0]
  return re.findall(r"^ {4}([a-z][a-z-]*)\s", help_of(command), re.MULTILINE) if usage.endswith(" ...") else []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_and_each_of_its_flags_exists(page: pathlib.Path):
  for line in commands(page):
    if not line.startswith("trialbook "):
      continue
    words = line.partition(" -- ")[0].split()[1:]
    command = list(itertools.takewhile(re.compile("[a-z][a-z-]*").fullmatch, words))
    command = command[: 2 if command and parts(command[0]) else 1]
    flags = {word[2:].partition("=")[0] for word in words if word.startswith("--")} - {"help", "version"}
    # "trialbook tune …" is any command of it.
    known = flags_of(*command) if command and (len(command) == 2 or not parts(command[0])) else set()
    assert flags <= known, f"{name(page)}: {line}"
    for file in re.findall(r"--(?:config|study)=(experiments/\S+)", line):
      assert (ROOT / file).is_file(), f"{name(page)}: {file}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "benchmarks"], ids=name)
def test_every_flag_in_a_sentence_is_one_of_a_command(page: pathlib.Path):
  known = {
    flag
    for command in COMMANDS
    for flag in flags_of(command).union(*(flags_of(command, part) for part in parts(command)))
  }
  used = {flag for code in code_in_sentences(page) for flag in re.findall(r"^--([\w-]+)", code)}
  assert used <= known, name(page)


def found(path: str) -> Any:
  """The object at a dotted path, such as `trialbook.tuning.findings.findings`."""
  first, *rest = path.split(".")
  place: Any = importlib.import_module(first)
  for i, part in enumerate(rest):
    with contextlib.suppress(ModuleNotFoundError):
      importlib.import_module(".".join([first, *rest[: i + 1]]))
    assert hasattr(place, part), f"{path}: there is no {part}"
    place = getattr(place, part)
  return place


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_name_exists_and_public_ones_are_those_of_trialbook_itself(page: pathlib.Path):
  text = page.read_text()
  imported = re.findall(r"^(?:`)?from (trialbook[\w.]*) import ([\w, ]+)", text, re.MULTILINE)
  dotted = [code.replace(":", ".") for code in code_in_sentences(page)]
  dotted = [re.match(r"trialbook(?:\.\w+)+", code) for code in dotted]
  paths = [f"{module}.{one.strip()}" for module, names in imported for one in names.split(",")]
  for path in [*paths, *(match[0] for match in dotted if match)]:
    value, last = found(path), path.rpartition(".")[2]
    if getattr(trialbook, last, None) is value:
      assert path == f"trialbook.{last}", f"{name(page)}: {path}"


def test_every_benchmark_has_its_section():
  pages = [(ROOT / "docs" / name).read_text() for name in ("benchmarks.md", "measured_procedures.md", "pods.md")]
  measured = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "\ndef main(" in path.read_text()}
  measured -= {"evidence"}  # It runs the others.
  sections = [
    found
    for page in pages
    for section in page.split("\n## ")[1:]
    if (found := re.findall(r"^\S*python -m benchmarks\.(\w+)$", section, re.MULTILINE))
  ]
  # A page of explanations has sections without a benchmark.
  sections = [section for section in sections if section]
  assert sorted(sections) == sorted([one] for one in measured)


def test_every_make_target_exists():
  targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
  for page in PAGES:
    assert set(re.findall(r"\bmake ([a-z-]+)(?=`|\s+#|\n)", page.read_text())) <= targets


def test_every_id_of_the_playbook_has_one_row_or_is_listed_as_not_covered():
  page = (ROOT / "docs" / "playbook.md").read_text()
  rows = re.findall(r"^\| (PB-\d\d) \|.*\| (yes|partly: .+) \|$", page, re.MULTILINE)
  assert len(rows) == sum(line.startswith("| PB-") for line in page.splitlines())
  missing = re.findall(r"PB-\d\d", page.partition("\nNot covered yet: ")[2])
  assert sorted([row[0] for row in rows] + missing) == sorted(IDS)


def test_every_id_in_the_code_is_one_of_the_playbook():
  for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
    assert set(re.findall(r"PB-\w+", path.read_text())) <= IDS, name(path)


def test_the_table_of_rooms_is_the_one_that_is_enforced():
  page = (ROOT / "docs" / "design.md").read_text()
  rows = re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
  found = {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in rows}
  assert found == {"trialbook": set()} | {room: {"trialbook", *others} for room, others in MAY_IMPORT.items()}


def tree() -> dict[str, str]:
  """The tree of the repository in the design: path -> what is there; folders end with "/"."""
  page = (ROOT / "docs" / "design.md").read_text()
  lines = page[page.index("\n## The tree") :].partition("```text no-test\n")[2].partition("\n```")[0].splitlines()
  paths: dict[str, str] = {}
  folders: list[str] = []
  for line in lines:
    names, _, phrase = line.strip().partition("  ")
    depth = (len(line) - len(line.lstrip())) // 2
    for one in names.split(", "):
      path = "".join(folders[:depth]) + one
      assert path not in paths, f"{path} is there twice"
      paths[path] = phrase.strip()
    folders = [*folders[:depth], names]
  return paths


def test_the_tree_names_every_folder_and_nothing_that_is_not_there():
  top = [ROOT / folder for folder in ("trialbook", *ROOMS, "tests", "benchmarks", "docs")]
  folders = {
    f"{name(path)}/"
    for start in top
    for path in [start, *start.rglob("*")]
    if path.is_dir() and not path.is_symlink() and path.name != "__pycache__"
    # Below are records, as runs and studies leave them.
    if not {ROOT / "tests" / "old_records", ROOT / "tests" / "tuning" / "cases"} & {*path.parents}
  }
  named = {path for path in tree() if path.endswith("/")}
  assert named == folders
  assert {f"{inner}/" for inners in ROOMS.values() for inner in inners} <= named
  assert [path for path in tree() if not (ROOT / path).exists()] == []
  assert [path for path, phrase in tree().items() if not phrase] == []


def test_the_exit_codes_of_the_design_are_those_of_the_table():
  page = (ROOT / "docs" / "design.md").read_text()
  codes = {int(code) for code in re.findall(r"^ +\| (\d+) \|", page, re.MULTILINE)}
  known = {name: value for name, value in vars(errors).items() if isinstance(value, int) and not name.startswith("_")}
  assert codes == {*known.values()}

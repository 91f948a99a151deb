"""Runs whose workdir is in a real object store: killed, resumed, evaluated, forked; a store that fails; two writers."""

import json
import os
import pathlib
import random
import signal
import time
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
import store_server
from store_commands import Commands
from tiny import numbers, state_of

pytestmark = pytest.mark.evidence


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The same run on a disk."""
  folder = tmp_path_factory.mktemp("undisturbed")
  with store_server.serve(folder / "store") as store:
    code, _, err = Commands(store, folder).train("run")
  assert code == 0, err
  return folder / "run"


@pytest.fixture
def commands(tmp_path: pathlib.Path) -> Iterator[Commands]:
  with store_server.serve(tmp_path / "store") as store:
    (tmp_path / "here").mkdir()
    yield Commands(store, tmp_path / "here")


def same(one: pathlib.Path, other: pathlib.Path) -> None:
  """Compare two runs to the bit."""
  assert numbers(one) == numbers(other)
  states = state_of(one), state_of(other)
  assert states[0].keys() == states[1].keys()
  assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
  best = [json.loads((run / "best.json").read_text()) for run in (one, other)]
  assert best[0] == best[1]


def test_a_run_that_is_killed_again_and_again_ends_like_an_undisturbed_one_on_a_disk(
  commands: Commands, undisturbed: pathlib.Path
):
  chance, kills = random.Random(0), 0
  deadline = time.monotonic() + 400
  while time.monotonic() < deadline:
    process = commands.start("train", "--config=config.py", "--workdir=gs://bucket/run")
    seen = len(commands.store.requests)
    # After some requests of its own, wherever that is: a lock, a record, an array, a mark.
    after = seen + chance.randrange(20, 400)
    while process.poll() is None and len(commands.store.requests) < after and kills < 4:
      time.sleep(0.002)
    if process.poll() is None and kills < 4:
      process.send_signal(signal.SIGKILL)
      process.communicate()
      kills += 1
      continue
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    break
  assert kills == 4
  same(commands.bucket / "run", undisturbed)
  assert commands.steps() == [50, 60]
  left = [path for path in (commands.bucket / "run" / "checkpoints").rglob("*") if path.is_file()]
  assert not [path for path in left if not {"50", "60"} & set(path.parts)]
  assert not (commands.bucket / "run" / ".lock").exists()
  assert len(list((commands.bucket / "run" / "predictions").glob("*.npz"))) == 7
  assert list((commands.bucket / "run").glob("events.out.*"))
  assert (commands.bucket / "run" / "export" / "card.json").is_file()

  code, out, err = commands.run("evaluate", "gs://bucket/run", "--split=test")
  assert code == 0, err
  assert "test/error" in json.loads(out)
  code, out, err = commands.run("export", "gs://bucket/run", "--to=exported")
  assert code == 0, err
  assert (commands.folder / "exported" / "weights.npz").is_file()
  code, out, err = commands.train("gs://bucket/run")
  assert code == 0, err
  assert "already finished" in err

  # A fork goes either way between a store and a disk.
  for source, target in (("gs://bucket/run", "forked"), ("forked", "gs://bucket/again")):
    more = {"forked": "80", "gs://bucket/again": "100"}[target]
    code, _, err = commands.train(target, f"--fork={source}", "--set", f"max_train_steps={more}")
    assert code == 0, err
  assert commands.steps("again")[-1] == 100


def test_sigterm_saves_in_the_store(commands: Commands):
  process = commands.start(
    "train", "--config=config.py", "--workdir=gs://bucket/run", "--set", "max_train_steps=100000"
  )
  commands.wait_for(lambda: bool(commands.steps()), process)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 75, err
  record = json.loads((commands.bucket / "run" / "run.json").read_text())
  assert record["status"] == "preempted"
  assert commands.steps()[-1] == record["step"]
  assert "exits with 75" in (commands.bucket / "run" / "logs" / "host_0.log").read_text()


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_a_store_that_fails_for_half_a_minute_loses_nothing(commands: Commands, undisturbed: pathlib.Path, fault: str):
  process = commands.start("train", "--config=config.py", "--workdir=gs://bucket/run")
  commands.wait_for(lambda: len(commands.steps()) >= 2, process)
  until = time.monotonic() + 30
  commands.store.fault = lambda method, path: fault if time.monotonic() < until else None
  _, err = process.communicate(timeout=400)
  assert process.returncode == 0, err
  assert time.monotonic() > until
  same(commands.bucket / "run", undisturbed)
  record = json.loads((commands.bucket / "run" / "run.json").read_text())
  assert record.get("earlier", []) == []


def test_requests_that_fail_now_and_then_change_nothing(commands: Commands, undisturbed: pathlib.Path):
  """One in ten is answered by 503, not at all, or only in the store.

  The last part of an upload in parts is never done without an answer: the stand-in, unlike the store, forgets it then.
  """
  chance = random.Random(1)
  faults = [None] * 27 + ["503", "cut", "lost"]

  def fault(method: str, path: str) -> str | None:
    chosen = chance.choice(faults)
    return "503" if chosen == "lost" and "upload_id" in path else chosen

  with commands.store.failing(fault):
    code, _, err = commands.train("gs://bucket/run", seconds=500)
  assert code == 0, err
  same(commands.bucket / "run", undisturbed)


SOON = "from trialbook import store_client\nstore_client.PATIENCE_SECONDS = 4.0\n"


def test_a_store_that_stays_away_ends_the_run_with_75_and_the_run_resumes(
  commands: Commands, undisturbed: pathlib.Path
):
  process = commands.start("train", "--config=config.py", "--workdir=gs://bucket/run", before=SOON)
  commands.wait_for(lambda: len(commands.steps()) >= 2, process)
  begun = time.monotonic()
  with commands.store.failing(lambda method, path: "503"):
    _, err = process.communicate(timeout=300)
  assert process.returncode == 75, err
  assert "the store did not answer for" in err
  assert "Traceback" not in err
  assert time.monotonic() - begun < 120
  code, _, err = commands.train("gs://bucket/run")
  assert code == 0, err
  assert "continues from the checkpoint of step" in err
  same(commands.bucket / "run", undisturbed)


def test_a_second_writer_is_refused_and_the_first_goes_on(commands: Commands):
  process = commands.start(
    "train", "--config=config.py", "--workdir=gs://bucket/run", "--set", "max_train_steps=100000"
  )
  commands.wait_for(lambda: bool(commands.steps()), process)
  code, _, err = commands.train("gs://bucket/run", "--set", "max_train_steps=100000")
  assert code == 2
  assert f"workdir gs://bucket/run is in use by process {process.pid} on " in err
  assert process.poll() is None
  process.kill()
  process.communicate()


@pytest.mark.parametrize(
  ("workdir", "says"),
  [
    ("gs://nowhere/run", "there is no bucket 'nowhere'"),
    ("s3://bucket/run", "is not a path in a file system, nor gs://BUCKET/NAME"),
  ],
)
def test_a_bucket_that_is_not_there_is_refused_before_a_device_is_used(commands: Commands, workdir: str, says: str):
  code, _, err = commands.train(workdir, JAX_PLATFORMS="no_such_platform")
  assert code == 2
  assert says in err
  assert "Traceback" not in err


def test_a_store_without_a_connection_is_refused_soon(commands: Commands):
  begun = time.monotonic()
  code, _, err = commands.train("gs://bucket/run", STORAGE_EMULATOR_HOST="http://127.0.0.1:9")
  assert code == 2
  assert "there is no connection to the store" in err
  assert time.monotonic() - begun < 60


def test_programs_come_from_a_cache_in_the_store_and_a_run_does_without_one_that_is_not_there(commands: Commands):
  cache = "compilation_cache=gs://bucket/cache"
  for name, hits in (("first", 0), ("second", 3)):
    code, _, err = commands.train(name, "--set", cache)
    assert code == 0, err
    record = json.loads((commands.folder / name / "run.json").read_text())
    assert record["compilation_cache_hits"] == hits
  begun = time.monotonic()
  code, _, err = commands.train("third", "--set", "compilation_cache=gs://nowhere/cache")
  assert code == 0, err
  assert "compilation_cache = gs://nowhere/cache is not used" in err
  code, _, err = commands.train("fourth", "--set", cache, STORAGE_EMULATOR_HOST="http://127.0.0.1:9")
  assert code == 0, err
  assert "there is no connection to the store" in err
  assert time.monotonic() - begun < 90


def test_a_damaged_checkpoint_in_the_store_is_set_aside(commands: Commands):
  more = ("--set", "checkpointing.keep_latest=3", "--set", "schedule.name=constant")
  code, _, err = commands.train("gs://bucket/run", *more)
  assert code == 0, err
  newest = commands.steps()[-1]
  for path in (commands.bucket / "run" / "checkpoints" / str(newest)).rglob("*"):
    if path.is_file() and path.parent.name == "d":
      path.write_bytes(bytes(len(path.read_bytes())))
  code, _, err = commands.train("gs://bucket/run", *more, "--set", "max_train_steps=70")
  assert code == 0, err
  assert "damaged checkpoint" in err
  assert (commands.bucket / "run" / "checkpoints" / f"{newest}.damaged").is_dir()


def test_a_dataset_in_the_store_is_copied_once(commands: Commands):
  place = f"{commands.store.url}/upload/storage/v1/b/bucket/o?uploadType=media&name=text"
  urllib.request.urlopen(urllib.request.Request(place, bytes(range(97, 107)) * 4000, method="POST")).close()
  changes = {
    "dataset.name": "text",
    "dataset.path": "gs://bucket/text",
    "dataset.length": "8",
    "task.name": "language_model",
    "model.name": "transformer",
    "model.width": "8",
    "model.depth": "1",
    "model.heads": "2",
    "max_train_steps": "2",
    "schedule.name": "constant",
    "evaluation.every_steps": "2",
  }
  arguments = [word for path, value in changes.items() for word in ("--set", f"{path}={value}")]
  for name in ("gs://bucket/one", "gs://bucket/two"):
    count = len(commands.store.requests)
    code, _, err = commands.run(
      "train", f"--workdir={name}", *arguments, "--set", "compilation_cache=None", TRIALBOOK_DATA_DIR="data"
    )
    assert code == 0, err
    reads = [path for _, path in commands.store.requests[count:] if path.startswith("/download") and "o/text" in path]
    assert len(reads) == (name == "gs://bucket/one")


def test_two_hosts_are_killed_under_a_launcher_and_end_the_same(commands: Commands):
  """The launcher restarts them, counts why in the store, and sees there which checkpoints came."""

  def job(workdir: str) -> tuple[str, ...]:
    train = ("-m", "trialbook", "train", "--config=config.py", f"--workdir={workdir}")
    return ("launch", "local", "--hosts=2", "--first_delay=0.1", "--", *train)

  code, _, err = commands.run(*job("alone"))
  assert code == 0, err
  process = commands.start(*job("gs://bucket/run"))
  commands.wait_for(lambda: len(commands.steps()) >= 2, process)
  hosts = [int(line) for line in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
  training = [pid for pid in hosts if b"trialbook\0train" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]
  assert len(training) == 2
  os.kill(training[1], signal.SIGKILL)
  _, err = process.communicate(timeout=400)
  assert process.returncode == 0, err
  assert "restart 1 in 0.1 s" in err
  same(commands.bucket / "run", commands.folder / "alone")
  restarts = json.loads((commands.bucket / "run" / "restarts.json").read_text())
  assert (restarts["failures"], restarts["preemptions"], restarts["state"]) == (1, 0, "ended")

"""Files, locks and spools in a real object store: fake-gcs-server behind a proxy that can fail."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import store_server
from store_server import Store

from trialbook import files, folders, lease, object_store, store_client
from trialbook.errors import ConfigError, UserError
from trialbook.object_store import StorePath
from trialbook.spool import Spool
from trialbook.store_client import ChangedObjectError, StoreLostError

pytestmark = pytest.mark.evidence

ROOT = StorePath("gs://bucket/runs")


@pytest.fixture
def store(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
  with store_server.serve(tmp_path / "store") as started:
    for name, value in started.environment().items():
      monkeypatch.setenv(name, value)
    store_client._connection.cache_clear()
    yield started
    store_client._connection.cache_clear()


def test_files_and_folders_in_a_store_are_those_of_a_file_system(store: Store):
  path = ROOT / "first" / "run.json"
  assert files.read_json(path) is None
  assert not path.exists()
  assert not (ROOT / "first").is_dir()
  assert list((ROOT / "first").iterdir()) == []
  files.write_json(path, {"step": 1})
  files.write_json(path, {"step": 2})
  assert files.read_json(path) == {"step": 2}
  assert (path.is_file(), path.is_dir(), path.parent.is_dir(), path.parent.is_file()) == (True, False, True, False)
  assert (store.folder / "bucket" / "runs" / "first" / "run.json").is_file()
  with (ROOT / "first" / "log").open("a") as file:
    file.write("one\n")
  with (ROOT / "first" / "log").open("a") as file:
    file.write("two\n")
  assert (ROOT / "first" / "log").read_text() == "one\ntwo\n"
  with contextlib.suppress(KeyError), (ROOT / "first" / "log").open("w") as file:
    file.write("half")
    raise KeyError
  assert (ROOT / "first" / "log").read_text() == "one\ntwo\n"
  (ROOT / "second" / "deep" / "run.json").write_text("{}")
  assert [item.name for item in ROOT.iterdir()] == ["first", "second"]
  assert [str(item) for item in ROOT.glob("*/*.json")] == ["gs://bucket/runs/first/run.json"]
  assert [str(item) for item in ROOT.glob("*/*/run.json")] == ["gs://bucket/runs/second/deep/run.json"]
  assert [item.name for item in ROOT.rglob("run.json")] == ["run.json", "run.json"]
  assert (ROOT / "first" / "log").stat().st_size == 8
  assert (ROOT / "first" / "log").rename(ROOT / "moved").read_text() == "one\ntwo\n"
  assert not (ROOT / "first" / "log").exists()
  with pytest.raises(FileNotFoundError):
    (ROOT / "first" / "log").unlink()
  with pytest.raises(FileExistsError):
    (ROOT / "moved").mkdir(exist_ok=True)


def test_a_folder_is_copied_moved_and_removed_with_what_describes_it_at_the_right_end(
  store: Store, tmp_path: pathlib.Path
):
  with files.replacing_folder(ROOT / "export") as staging:
    (staging / "weights.npz").write_bytes(b"w")
    (staging / "card.json").write_text("{}")
  card, weights = (store.folder / "bucket" / "runs" / "export" / name for name in ("card.json", "weights.npz"))
  assert card.stat().st_mtime_ns >= weights.stat().st_mtime_ns
  folders.copy(ROOT / "export", tmp_path / "copy")
  assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["card.json", "weights.npz"]
  folders.move(ROOT / "export", ROOT / "elsewhere")
  assert not (ROOT / "export").exists()
  store.requests.clear()
  folders.remove(ROOT / "elsewhere")
  removed = [path.rpartition("%2F")[2].partition("?")[0] for method, path in store.requests if method == "DELETE"]
  assert removed == ["card.json", "weights.npz"]


def test_an_object_is_replaced_only_in_the_generation_that_was_seen(store: Store):
  path = ROOT / "lock"
  first = object_store.write_version(path, b"1", 0)
  with pytest.raises(ChangedObjectError):
    object_store.write_version(path, b"2", 0)
  second = object_store.write_version(path, b"2", first)
  with pytest.raises(ChangedObjectError):
    object_store.write_version(path, b"3", first)
  there = object_store.read_version(path)
  assert there is not None
  assert (there.content, there.generation) == (b"2", second)
  object_store.remove_version(path, second)  # The stand-in does not look at the generation here; the store does.
  assert object_store.read_version(path) is None


def test_a_write_whose_answer_was_lost_counts_as_done(store: Store):
  lost = iter(["lost"])
  with store.failing(lambda method, path: next(lost, None) if method == "POST" else None):
    generation = object_store.write_version(ROOT / "lock", b"mine", 0)
  there = object_store.read_version(ROOT / "lock")
  assert there is not None
  assert (there.content, there.generation) == (b"mine", generation)


def test_of_many_that_want_a_lock_at_once_one_has_it(store: Store):
  inside, most = 0, 0
  held = threading.Lock()

  def work() -> None:
    nonlocal inside, most
    for _ in range(50):
      with contextlib.suppress(ConfigError), files.locked(ROOT / ".lock", "the run"):
        with held:
          inside += 1
          most = max(most, inside)
        time.sleep(0.01)
        with held:
          inside -= 1
        return

  threads = [threading.Thread(target=work) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert most == 1


@contextlib.contextmanager
def holder(store: Store, script: str) -> Iterator["subprocess.Popen[str]"]:
  """A process that holds the lock; it is killed at the end."""
  program = f"import time\nfrom trialbook import files, lease, paths\n{script}\n"
  environment = {**os.environ, **store.environment()}
  with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment) as process:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    try:
      yield process
    finally:
      process.kill()


HOLD = """
with files.locked(paths.as_path("gs://bucket/runs/.lock"), "the run"):
  print("held", flush=True)
  time.sleep(600)
"""


def test_a_lock_names_its_owner_and_ends_with_it(store: Store):
  with holder(store, HOLD) as process:
    assert files.is_locked(ROOT / ".lock")
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=rf"the run is in use by process {process.pid} on "):
      files.check_unlocked(ROOT / ".lock", "the run")
    assert time.monotonic() - begun < 2
  assert not files.is_locked(ROOT / ".lock")
  with files.locked(ROOT / ".lock", "the run"):
    pass
  assert not (ROOT / ".lock").exists()


def test_the_lock_of_another_machine_is_taken_over_when_it_has_expired_and_not_before(
  store: Store, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(lease, "EXPIRY_SECONDS", 4.0)
  monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.2)
  elsewhere = 'lease._machine = lambda: "another"\nlease.RENEW_SECONDS = 0.5\n'
  with holder(store, elsewhere + HOLD) as process:
    # It lives, and shows it.
    begun, lock = time.monotonic(), files.locked(ROOT / ".lock", "the run")
    with pytest.raises(ConfigError, match=rf"in use by process {process.pid}"), lock:
      pass
    assert time.monotonic() - begun < 3
  begun = time.monotonic()
  with files.locked(ROOT / ".lock", "the run") as check:
    assert 1.5 < time.monotonic() - begun < 8
    check()
    # A process that was suspended for long finds that it has lost its lock.
    other = json.dumps({"process": 7, "node": "elsewhere", "machine": "x", "started": "1"}).encode()
    (ROOT / ".lock").write_bytes(other)
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="the run was taken over by 7 on elsewhere"):
      check()
  assert (ROOT / ".lock").read_bytes() == other


def test_a_store_that_fails_for_a_while_loses_nothing(store: Store):
  for fault in ("503", "cut"):
    until = time.monotonic() + 5
    with store.failing(lambda method, path, until=until, fault=fault: fault if time.monotonic() < until else None):
      files.write_json(ROOT / "run.json", {"fault": fault})
      assert files.read_json(ROOT / "run.json") == {"fault": fault}
    assert time.monotonic() > until


def test_a_store_that_fails_for_long_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch):
  files.write_json(ROOT / "run.json", {})
  monkeypatch.setattr(store_client, "_LOST_SECONDS", 0.2)
  with store.failing(lambda method, path: "503"):
    with pytest.raises(StoreLostError, match=r"did not answer for . s .*503.*rerun the same command"):
      object_store.check(ROOT, patience=2.0)
    with pytest.raises(StoreLostError, match=r"did not answer for . s"), store_client.request(ROOT, 2.0) as options:
      store_client.client().bucket("bucket").blob("x").exists(**options)


def test_a_bucket_that_cannot_be_written_is_a_mistake(store: Store, monkeypatch: pytest.MonkeyPatch):
  with pytest.raises(UserError, match=r"gs://nowhere/x: there is no bucket 'nowhere'; create it"):
    files.check_reachable(StorePath("gs://nowhere/x"))
  files.check_reachable(ROOT)
  assert not ROOT.is_dir()
  monkeypatch.setattr(store_client, "_UNREACHABLE_SECONDS", 1.0)
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
  store_client._connection.cache_clear()
  with pytest.raises(UserError, match=r"there is no connection to the store .*; check its address and the network"):
    files.check_reachable(ROOT)


def test_what_grows_is_uploaded_when_it_is_asked_for(store: Store):
  (ROOT / "log").write_text("one\n")
  spool = Spool(ROOT, ["log"])
  with (spool.folder / "log").open("a") as file:
    file.write("two\n")
    file.flush()
    assert (ROOT / "log").read_text() == "one\n"
    spool.upload()
    assert (ROOT / "log").read_text() == "one\ntwo\n"
    count = len(store.requests)
    spool.upload()
    assert len(store.requests) == count
    file.write("three\n")
  spool.close()
  assert (ROOT / "log").read_text() == "one\ntwo\nthree\n"
  assert not spool.folder.exists()

"""Paths in an object store as paths; what needs a store is in tests/trialbook/test_store_server.py."""

import importlib.util
import pathlib
import pickle
import subprocess
import sys
from typing import Any

import pytest

from trialbook.object_store import StorePath
from trialbook.paths import PathError, as_local_path, as_path

RUN = StorePath("gs://bucket/runs/first")


def test_a_path_in_a_store_is_put_together_and_taken_apart_like_any_other():
  assert as_path("gs://bucket/runs/first") == RUN
  assert as_path(RUN) == RUN
  assert str(RUN / "checkpoints" / "7") == "gs://bucket/runs/first/checkpoints/7"
  assert (RUN.bucket, RUN.key, RUN.name) == ("bucket", "runs/first", "first")
  assert [str(path) for path in RUN.parents] == ["gs://bucket/runs", "gs://bucket"]
  assert as_path("gs://bucket").parent == as_path("gs://bucket/")
  assert str(RUN.with_name("second")) == "gs://bucket/runs/second"
  assert str((RUN / "trials" / "0001").relative_to(RUN)) == "trials/0001"
  assert (RUN.resolve(), RUN.absolute(), RUN.expanduser()) == (RUN, RUN, RUN)
  assert pickle.loads(pickle.dumps(RUN)) == RUN
  assert isinstance(RUN / "x", StorePath)
  assert {RUN: 1}[StorePath("gs://bucket/runs/first/")] == 1


@pytest.mark.parametrize("text", ["s3://bucket/run", "gs:/bucket/run", "gs://", "gs://bucket/../other", "hdfs://x/y"])
def test_another_kind_of_store_is_refused(text: str):
  with pytest.raises(PathError, match=r"nor gs://BUCKET/NAME"):
    as_path(text)


def test_what_must_be_in_a_file_system_is_refused_in_a_store(tmp_path: pathlib.Path):
  assert as_local_path(tmp_path) == tmp_path
  with pytest.raises(PathError, match="copy it to this machine"):
    as_local_path("gs://bucket/config.py")


def test_nothing_that_a_path_does_is_left_to_the_file_system():
  """A method of `pathlib.Path` that nobody thought of would make a folder called `gs:` on this machine."""
  inherited = {
    name
    for name, value in vars(pathlib.Path).items()
    if not name.startswith("_")
    and callable(value)
    and name not in vars(StorePath)
    and not hasattr(pathlib.PurePath, name)
  }
  # These call `open`, or are about no path.
  assert inherited <= {"read_text", "write_text", "cwd", "home", "from_uri"}


@pytest.mark.parametrize("method", ["chmod", "owner", "group", "readlink", "symlink_to", "hardlink_to"])
def test_what_a_store_does_not_have_is_refused(method: str):
  arguments: dict[str, Any] = {"chmod": [0o600], "symlink_to": ["x"], "hardlink_to": ["x"]}
  with pytest.raises(OSError, match="an object store does not support this"):
    getattr(RUN, method)(*arguments.get(method, []))


def test_the_packages_of_the_store_are_imported_by_its_use_alone():
  program = """
import sys
import trialbook.files, trialbook.paths
trialbook.paths.as_path("gs://bucket/x") / "y"
names = ("google.cloud.storage", "fsspec", "gcsfs", "aiohttp", "requests", "etils", "absl")
print([name for name in names if name in sys.modules])
"""
  out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
  assert out.strip() == "[]"


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="the packages are installed")
@pytest.mark.parametrize(
  "arguments",
  [
    ["train", "--workdir=gs://bucket/run"],
    ["evaluate", "gs://bucket/run"],
    ["tune", "report", "gs://bucket/study"],
  ],
)
def test_without_the_packages_the_message_says_what_to_install(arguments: list[str], tmp_path: pathlib.Path):
  command = [sys.executable, "-m", "trialbook", *arguments]
  ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
  assert ended.returncode == 2
  assert "install trialbook[gcs]" in ended.stderr
  assert not list(tmp_path.iterdir())

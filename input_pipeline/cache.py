"""The directory of prepared datasets on this machine."""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping

from trialbook import files
from trialbook.errors import DataError
from trialbook.object_store import StorePath
from trialbook.paths import as_local_path


def root(data_dir: str | None = None) -> pathlib.Path:
  """Return `data_dir` if given, or else $TRIALBOOK_DATA_DIR, or else ~/.cache/trialbook/data. Raises PathError."""
  return as_local_path(data_dir or os.environ.get("TRIALBOOK_DATA_DIR") or "~/.cache/trialbook/data")


def fetched(path: pathlib.Path) -> pathlib.Path:
  """Return a file of a dataset on this machine: itself, or a copy of an object in a store, made once for each content.

  Raises:
    FileNotFoundError: if there is no such object.
  """
  if not isinstance(path, StorePath):
    return path
  status = path.stat()
  copy = root() / "objects" / path.bucket / path.parent.key / str(status.st_ino) / path.name
  if not copy.is_file() or copy.stat().st_size != status.st_size:
    copy.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing_path(copy) as new:
      path.download(new)
  return copy


def install(dataset: str, contents: Mapping[str, pathlib.Path | bytes], data_dir: str | None = None) -> pathlib.Path:
  """Copy files, or write contents, by their names there into the dataset's folder, each whole or not at all.

  Raises:
    DataError: the folder cannot be written; what it held is unchanged, unless the disk failed while renaming.
  """
  folder = root(data_dir) / dataset
  staging = None
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, hence on the same file system, where a rename is atomic.
    staging = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{dataset}."))
    for name, content in contents.items():
      if isinstance(content, bytes):
        (staging / name).write_bytes(content)
      else:
        shutil.copyfile(content, staging / name)
      with open(staging / name, "rb") as file:
        os.fsync(file.fileno())
    folder.mkdir(exist_ok=True)
    for name in contents:
      os.replace(staging / name, folder / name)
  except OSError as error:
    raise DataError(f"cannot write dataset {dataset} to {folder}: {error}") from error
  finally:
    if staging is not None:
      shutil.rmtree(staging, ignore_errors=True)
  return folder

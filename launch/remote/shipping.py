"""The code of a job as one archive: the working tree as git sees it, and the package that launches it.

The same code gives the same bytes, so a host unpacks it once, and whoever resumes the job can compare.
"""

import dataclasses
import gzip
import hashlib
import io
import os
import pathlib
import subprocess
import tarfile
from collections.abc import Iterator

import trialbook
from trialbook.errors import UserError

MOST_BYTES = 200 * 10**6
_HASH_CHARACTERS = 16


@dataclasses.dataclass(frozen=True)
class Archive:
  """Code to be shipped.

  Attributes:
    content: a compressed tar file with the folders `tree` and `package`.
    digest: by which it is known.
    inside: the folder of the tree in which the command is run.
  """

  content: bytes
  digest: str
  inside: str

  @classmethod
  def of(cls, content: bytes, inside: str) -> "Archive":
    """Return the archive with this content."""
    return cls(content, hashlib.sha256(content).hexdigest()[:_HASH_CHARACTERS], inside)


def pack(folder: pathlib.Path) -> Archive:
  """Return the working tree to which a folder belongs: what git knows, with its changes, and what it does not ignore.

  Raises:
    UserError: if the folder belongs to no tree of git, or the tree is too large to be shipped.
  """
  root = pathlib.Path(_git(folder, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
  names = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(b"\0")
  paths = {name: root / name for name in sorted({os.fsdecode(name) for name in names if name})}
  # A file that was deleted and not committed is still in git's list.
  files = {f"tree/{name}": path for name, path in paths.items() if path.is_symlink() or path.is_file()}
  if "tree/trialbook/__init__.py" not in files:
    package = pathlib.Path(trialbook.__file__).parent
    files |= {f"package/trialbook/{path.relative_to(package)}": path for path in _package_files(package)}
  _check_size(root, files)
  buffer = io.BytesIO()
  with (
    gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as zipped,
    tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
  ):
    for name, path in files.items():
      # Of the package, its links into a clone become what they lead to.
      _add(tar, name, path if name.startswith("tree/") else path.resolve())
  return Archive.of(buffer.getvalue(), os.path.relpath(folder.resolve(), root.resolve()))


def _add(tar: tarfile.TarFile, name: str, path: pathlib.Path) -> None:
  entry = tar.gettarinfo(str(path), arcname=name)
  if entry.islnk():
    entry.type, entry.size = tarfile.REGTYPE, path.stat().st_size
  entry.mtime = entry.uid = entry.gid = 0
  entry.uname = entry.gname = ""
  if not entry.isreg():
    tar.addfile(entry)
    return
  with path.open("rb") as file:
    tar.addfile(entry, file)


def _package_files(package: pathlib.Path) -> Iterator[pathlib.Path]:
  for folder, inner, names in os.walk(package, followlinks=True):
    inner[:] = sorted(name for name in inner if name != "__pycache__")
    yield from (pathlib.Path(folder) / name for name in sorted(names))


def _check_size(root: pathlib.Path, files: dict[str, pathlib.Path]) -> None:
  sizes = {name: path.lstat().st_size for name, path in files.items()}
  if sum(sizes.values()) <= MOST_BYTES:
    return
  largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
  named = ", ".join(f"{name.removeprefix('tree/')} ({sizes[name] / 1e6:,.0f} MB)" for name in largest)
  raise UserError(
    f"{root} holds {sum(sizes.values()) / 1e6:,.0f} MB of code, and at most {MOST_BYTES / 1e6:,.0f} MB are shipped to"
    f" the hosts. The largest files are {named}; let .gitignore name what is not code, and put data on storage"
  )


def _git(folder: pathlib.Path, *arguments: str) -> bytes:
  try:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True)
  except FileNotFoundError:
    raise UserError("git is not installed; the code of a job is what git lists") from None
  if done.returncode:
    said = done.stderr.decode(errors="replace").strip()
    raise UserError(f"{folder} belongs to no working tree of git ({said}); run git init in the folder of your code")
  return done.stdout

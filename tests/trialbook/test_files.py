"""Files are written beside their place and take it when they are whole, whatever others have laid there."""

import errno
import os
import pathlib
import re

import pytest

from trialbook import escaping, files
from trialbook.errors import ConfigError, UserError


def test_a_link_where_a_file_is_prepared_is_not_followed(tmp_path: pathlib.Path):
  precious = tmp_path / "precious"
  precious.write_text("mine")
  (tmp_path / f".run.json.new.{os.getpid()}").symlink_to(precious)
  files.write_json(tmp_path / "run.json", {"a": 1})
  assert precious.read_text() == "mine"
  assert files.read_json(tmp_path / "run.json") == {"a": 1}
  assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "run.json"]


def test_a_link_in_place_of_a_lock_is_refused(tmp_path: pathlib.Path):
  (tmp_path / "precious").write_text("mine")
  (tmp_path / ".lock").symlink_to(tmp_path / "precious")
  with pytest.raises(ConfigError, match="is a link"), files.locked(tmp_path / ".lock", "it"):
    pass
  assert (tmp_path / "precious").read_text() == "mine"


def test_half_a_character_is_written_out(tmp_path: pathlib.Path):
  files.write_json(tmp_path / "a.json", {"\ud800": ["\udcff"]})
  assert files.read_json(tmp_path / "a.json") == {"\\ud800": ["\\udcff"]}
  files.write_text(tmp_path / "a.md", "\udcff")
  assert (tmp_path / "a.md").read_text() == "\\udcff"


@pytest.mark.parametrize(
  ("number", "told"), [(errno.EMFILE, "ulimit -n"), (errno.EFBIG, "ulimit -f"), (errno.ENOSPC, "Free some space")]
)
def test_a_limit_is_told_with_its_remedy(number: int, told: str):
  told = rf"workdir w: {re.escape(os.strerror(number))}; .*{told}"
  with pytest.raises(UserError, match=told), files.disk_errors("workdir w"):
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
  ("text", "told"),
  [
    ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
    ("[x](javascript:alert(1))", r"\[x\](javascript:alert(1))"),
    ("a | b\nc", r"a \| b c"),
    ("grad_norm *x* `y`", r"grad_norm \*x\* \`y\`"),
    ("# x", r"\# x"),
    ("1. x", r"1\. x"),
    ("- x", r"\- x"),
    ("---", r"\---"),
    ("===", r"\==="),
    ("-0.5", "-0.5"),
    ("1.5", "1.5"),
    ("#1", "#1"),
    ("\x1b]0;title\x07", r"\\x1b\]0;title\\x07"),
  ],
)
def test_markdown_shows_text_as_it_is(text: str, told: str):
  assert escaping.markdown(text) == told


def test_code_and_links_in_markdown_end_where_they_should():
  assert escaping.markdown_code("a `b` | c") == r"``a `b` \| c``"
  assert escaping.markdown_code("`a`") == "`` `a` ``"
  assert escaping.markdown_link("study.json", "javascript:x/study.json") == "[study.json](javascript%3Ax/study.json)"
  assert escaping.markdown_link("a", "b) (c") == "[a](b%29%20%28c)"


@pytest.mark.parametrize("cell", ["=1+1", "+SUM(A1)", "-cmd|' /C calc'!A0", "@x", "\t=1", "\r=1"])
def test_a_formula_is_text_in_a_spreadsheet(cell: str):
  assert escaping.spreadsheet(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["-5", "+1e-3", "-inf", -5, -0.5, None, "a=b", ""])
def test_numbers_and_other_text_stay_as_they_are_in_a_spreadsheet(cell: object):
  assert escaping.spreadsheet(cell) == cell


def test_a_folder_in_place_of_a_file_is_named(tmp_path: pathlib.Path):
  (tmp_path / "best.json").mkdir()
  told = r"/best\.json: Is a directory; a file should be there"
  with pytest.raises(UserError, match=told), files.disk_errors("workdir w"):
    files.write_json(tmp_path / "best.json", {})
  assert [path.name for path in tmp_path.iterdir()] == ["best.json"]


def test_text_of_others_does_not_control_the_terminal():
  hostile = "a\x1b[2Jb\x9b1mc\rd\be\u202ef"
  assert escaping.visible(hostile) == r"a\x1b[2Jb\x9b1mc\rd\x08e\u202ef"
  assert escaping.visible("tab\tand line\nand é, 学習") == "tab\tand line\nand é, 学習"

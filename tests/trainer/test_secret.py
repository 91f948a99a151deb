"""Who knows the secret of a job, and how one is passed."""

import pathlib

import pytest

from trialbook.errors import UserError
from trialbook.trainer.hosts.secret import OPEN, VARIABLE, new_secret, read_secret


def test_a_secret_of_the_environment_is_read_once_and_inherited_by_nobody(monkeypatch):
  monkeypatch.setenv(VARIABLE, secret := new_secret())
  assert read_secret() == secret.encode()
  with pytest.raises(UserError, match="have no secret"):
    read_secret()


def test_a_file_goes_before_the_environment(monkeypatch, tmp_path: pathlib.Path):
  monkeypatch.setenv(VARIABLE, new_secret())
  (file := tmp_path / "secret").write_text("  what is in the file\n")
  assert read_secret(file, is_open=True) == b"what is in the file"


def test_an_open_job_has_none_unless_one_is_given(monkeypatch):
  monkeypatch.delenv(VARIABLE, raising=False)
  assert read_secret(is_open=True) == OPEN
  monkeypatch.setenv(VARIABLE, secret := new_secret())
  assert read_secret(is_open=True) == secret.encode()


@pytest.mark.parametrize("text", ["", " \n", "short"])
def test_what_can_be_guessed_is_refused(monkeypatch, tmp_path: pathlib.Path, text: str):
  monkeypatch.setenv(VARIABLE, text)
  with pytest.raises(UserError, match=f"{VARIABLE} holds .* characters, which is no secret"):
    read_secret(is_open=True)
  (file := tmp_path / "secret").write_text(text)
  with pytest.raises(UserError, match=f"--secret_file={file} holds"):
    read_secret(file)


@pytest.mark.parametrize("kind", ["absent", "a folder", "not text"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: pathlib.Path, kind: str):
  file = tmp_path / "secret"
  if kind == "a folder":
    file.mkdir()
  elif kind == "not text":
    file.write_bytes(b"\xff" * 32)
  with pytest.raises(UserError, match=f"--secret_file={file}: cannot be read"):
    read_secret(file)

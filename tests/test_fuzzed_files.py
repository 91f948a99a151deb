"""Files of configs and studies with random mistakes in them: each is refused with its place, or can be run."""

import json
import pathlib
import random
import sys
from collections.abc import Iterator

import pytest
import tiny
from in_process_command import run_command
from time_limit import within

from trialbook.errors import DataError, UserError
from trialbook.trainer import checks
from trialbook.trainer.config_files import load_config

PIECES = (
  *("", " ", "\n", "\t", "\0", "\r", "é", "\u2028", "{", "}", "[", "]", "(", ")", '"', "'", ",", ":", "=", "#", "\\"),
  *("null", "None", "true", "NaN", "Infinity", "-", "0", "1e999", "-1", "1" * 30, "1" * 5000, "\\ud800", "\\u0000"),
)
CONFIG = """
import dataclasses

import pydantic

from trialbook import Config
from trialbook.input_pipeline import Augmentation, Digits
from trialbook.models import MlpConfig
from trialbook.trainer import Averaging, Evaluation
from trialbook.trainer.optimizers import Adam
from trialbook.trainer.schedules import Cosine

class Mine(pydantic.BaseModel):
  rate: float = 0.1

def get_config():
  config = Config(
    dataset=Digits(augmentation=Augmentation(crop_padding=1)),
    model=MlpConfig(widths=(32, 16), dropout_rate=0.1),
    optimizer=Adam(learning_rate=Mine(rate=0.01).rate, weight_decay=1e-4),
    schedule=Cosine(warmup_steps=2),
    averaging=Averaging(decay=0.9),
    max_train_steps=20,
    batch_size=32,
    evaluation=Evaluation(every_steps=10, batch_size=256),
  )
  return config.override({"optimizer.beta1": 0.8, "clip_norm": 1.0})
"""
STUDY = """
from trialbook import Halton, Linear, Log, Minimize, OneOf, Study
import tiny

def get_study():
  return Study(
    name="rates",
    goal="Which rate?",
    objective=Minimize("validation/error", value="best"),
    config=tiny.mlp(max_train_steps=20),
    scientific={"optimizer.nesterov": OneOf([True, False])},
    nuisance={"optimizer.learning_rate": Log(1e-3, 1.0), "optimizer.momentum": Linear(0.0, 0.9)},
    search=Halton(seed=0),
    trials=6,
    max_attempts=2,
  )
"""


def mistakes(text: str, count: int) -> Iterator[str]:
  """Yield the text with one to three random changes of places, pieces and lines."""
  rng = random.Random(text)
  for _ in range(count):
    changed = text
    for _ in range(rng.randint(1, 3)):
      start = rng.randrange(len(changed))
      length = rng.choice((0, 1, 1, 3, 20))
      lines = changed.splitlines(keepends=True)
      match rng.randrange(4):
        case 0:
          changed = changed[:start] + rng.choice(PIECES) + changed[start + length :]
        case 1:
          other = rng.randrange(len(changed))
          changed = changed[:start] + changed[other : other + length] + changed[start:]
        case 2:
          lines.insert(rng.randrange(len(lines)), rng.choice(lines))
          changed = "".join(lines)
        case _:
          del lines[rng.randrange(len(lines))]
          changed = "".join(lines) or " "
    yield changed


def check(path: pathlib.Path, text: str) -> str | None:
  """Return what is wrong with how a config is taken; None if nothing is."""
  path.write_text(text, errors="surrogatepass")
  try:
    with within(30):
      checks.problems(load_config(path), path.parent / "run")
  except (UserError, DataError) as error:
    return None if str(error).strip() else "an empty message"
  except BaseException as error:
    return f"{type(error).__name__}: {str(error)[:200]}"
  return None


def wrong_configs(folder: pathlib.Path, count: int) -> list[str]:
  """Return the mistakes in configs, as JSON and as Python, of which something was wrong."""
  stored = json.dumps({"format": 1, **tiny.resnet().resolved().model_dump(mode="json")}, indent=1)
  problems = []
  for name, text in (("config.json", stored), ("experiment.py", CONFIG)):
    for number, changed in enumerate(mistakes(text, count)):
      if (problem := check(folder / name, changed)) is not None:
        problems.append(f"{name} {number}: {problem}\n{changed if name.endswith('.py') else ''}")
  return problems


def wrong_studies(folder: pathlib.Path, count: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
  """Return the mistakes in study files of which something was wrong."""
  problems = []
  for number, changed in enumerate(mistakes(STUDY, count)):
    (folder / "study.py").write_text(changed)
    try:
      with within(30):
        code, _, told = run_command(capsys, "tune", "run", f"--study={folder / 'study.py'}", "--dry_run")
      problem = None if code in (0, 2) and (code == 0 or "study.py" in told or "  - " in told) else f"{code}: {told}"
    except BaseException as error:
      problem = f"{type(error).__name__}: {str(error)[:200]}"
    if problem is not None:
      problems.append(f"{number}: {problem}\n{changed}")
  return problems


def test_a_file_of_a_config_with_random_mistakes_is_refused_or_valid(tmp_path: pathlib.Path):
  assert not (found := wrong_configs(tmp_path, 60)), "\n".join(found)


def test_a_file_of_a_study_with_random_mistakes_is_refused_or_valid(tmp_path: pathlib.Path, capsys):
  assert not (found := wrong_studies(tmp_path, 30, capsys)), "\n".join(found)


@pytest.mark.evidence
def test_hundreds_of_files_with_random_mistakes(tmp_path: pathlib.Path, capsys):
  found = [*wrong_configs(tmp_path, 1500), *wrong_studies(tmp_path, 500, capsys)]
  sys.stderr.write(f"\n3,500 files, {len(found)} problems\n")
  assert not found, "\n".join(found)

"""A short training learns: python -m pytest"""

import json
import pathlib

from trialbook import load_config, run


def test_a_short_training_learns(tmp_path: pathlib.Path):
  config = load_config(pathlib.Path(__file__).with_name("config.py"))
  result = run(
    config.override({"max_train_steps": 60, "evaluation.every_steps": 30, "export": False}), tmp_path / "run"
  )
  assert result.status == "complete"
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  losses = [line["train/loss"] for line in lines if "train/loss" in line]
  assert sum(losses[-5:]) < 0.9 * sum(losses[:5])

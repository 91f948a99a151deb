"""Studies made elsewhere, as study directories of ours: everything that works on a study then works on them.

  trialbook tune import algoperf logs/baseline runs/baseline
  trialbook tune import optuna study.db runs/study --objective=val_error
  trialbook tune import csv tables runs/study --rename=top1=validation/accuracy

A kind of source is a module with `read(source, options) -> list[SourceStudy]`, named in `KINDS`.
"""

from collections.abc import Mapping

KINDS: Mapping[str, str] = {"algoperf": "algoperf", "optuna": "optuna_storage", "csv": "trial_tables"}
"""The kinds of source that can be imported, each with the module that reads it."""

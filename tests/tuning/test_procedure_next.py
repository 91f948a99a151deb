"""`next` reads a study's findings and writes the study that follows, ready to run."""

import numpy as np
import pytest
from commands import outcome
from simulated_trainings import Simulation

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.tuning import Halton, Integer, Linear, Log, Minimize, OneOf, Optional, ReverseLog, Study, load_study
from trialbook.tuning.execution.planned_study import prepare
from trialbook.tuning.procedures.next_round import next_round, transferred
from trialbook.tuning.procedures.next_step import checklist, next_step
from trialbook.tuning.procedures.study_source import study_of, write_study_file
from trialbook.tuning.results import StudyResults
from trialbook.tuning.study import check

SPACES = [
  {"optimizer.learning_rate": Log(1e-3, 1.0), "optimizer.one_minus_momentum": Log(1e-3, 1.0)},
  {
    "optimizer": OneOf(
      {
        "nesterov": {"learning_rate": Log(1e-3, 10.0), "one_minus_momentum": Log(1e-3, 1.0)},
        "adam": {"learning_rate": Log(1e-5, 0.1), "beta2": ReverseLog(0.9, 0.9999)},
      }
    )
  },
  {"clip_norm": Optional(Log(0.1, 10.0)), "optimizer.learning_rate": Log(1e-3, 1.0)},
  {
    "averaging": Optional({"decay": ReverseLog(0.9, 0.999)}),
    "model.width": Integer(8, 32),
    "task.label_smoothing": Linear(0.0, 0.2),
  },
  {
    "model": OneOf({"mlp": {"widths": OneOf([(32,), (64, 64)])}, "resnet": {"width": Integer(4, 16, log=True)}}),
    "optimizer.learning_rate": Log(1e-3, 1.0),
  },
]


@pytest.mark.parametrize("space", SPACES, ids=range(len(SPACES)))
@pytest.mark.parametrize("role", ["scientific", "nuisance"])
def test_a_recorded_study_is_the_same_study_again_also_as_a_file(tmp_path, space, role):
  study = Study(
    name="one",
    goal='Which "one" is it?',
    objective=Minimize("validation/error"),
    config=Config(),
    trials=4,
    search=Halton(seed=3),
    **{role: space},
  )
  before = check(study)
  assert before.problems == []
  again = study_of(prepare(study).record(), Halton(seed=3))
  assert check(again).hyperparameters == before.hyperparameters
  path = write_study_file(again, tmp_path / "next", ["because \\ of this"])
  loaded = load_study(path)
  assert isinstance(loaded, Study)
  assert check(loaded).hyperparameters == before.hyperparameters
  assert [t.values for t in prepare(loaded).preview()] == [t.values for t in prepare(study).preview()]


def bowl(config: Config, centre: float, noise: float = 0.0015, limit: float = np.inf):
  """Return curves whose error is lowest at a learning rate, and diverge above a limit."""
  rate = np.log10(config.optimizer.learning_rate)
  if rate > np.log10(limit):
    return None
  rng = np.random.default_rng([config.seed, int(1e6 * config.optimizer.learning_rate)])
  end = 0.08 + 0.1 * (rate - centre) ** 2 + rng.normal(0, noise)
  steps = np.arange(0, config.max_train_steps + 1, config.evaluation.every_steps)
  time = steps / config.max_train_steps
  values = end + (0.9 - end) * np.exp(-((time / 0.05) ** 0.7)) + rng.normal(0, 0.001, len(steps))
  return {"validation/error": (steps, values), "train_subset/loss": (steps, 2 * values)}


def searched(tmp_path, centre, trials=24, **more) -> StudyResults:
  """Return a study of the learning rate that has been run."""
  study = Study(
    name="rate",
    goal="Which learning rate?",
    objective=Minimize("validation/error"),
    config=Config().override({"max_train_steps": 1000, "evaluation.every_steps": 20}),
    nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)},
    trials=trials,
    search=Halton(seed=0),
  )
  return Simulation(lambda config: bowl(config, centre, **more))(study, tmp_path / "rate")


def test_the_space_is_moved_to_where_the_best_points_are(tmp_path):
  found = next_step(searched(tmp_path, centre=0.5))
  assert found.kind == "search"
  assert found.study is not None
  scale = found.study.nuisance["optimizer.learning_rate"]
  assert scale.max > 1.0  # pyright: ignore
  assert found.study.name == "rate_2"
  assert any("PB-23" in reason for reason in found.reasons)
  again = write_study_file(found.study, tmp_path / "next", found.reasons)
  assert check(load_study(again)).problems == []  # pyright: ignore


def test_a_study_that_is_settled_leads_to_adoption(tmp_path):
  found = next_step(searched(tmp_path, centre=-1.5))
  assert found.kind in ("adopt", "extend")
  assert found.command is not None
  assert [row["id"] for row in checklist(found.findings)]


def test_a_study_in_which_all_diverge_is_fixed_first(tmp_path):
  found = next_step(searched(tmp_path, centre=-1.5, limit=1e-9))
  assert found.kind == "fix"
  assert found.study is None


def test_instability_under_the_best_is_mended_before_the_space_is_cut(tmp_path):
  found = next_step(searched(tmp_path, centre=-0.5, trials=32, limit=0.1))
  assert found.kind == "stability"
  assert "trialbook tune stability" in str(found.command)


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [
    ({"name": "linear", "constant_steps": 600}, {"constant_steps": 1600, "decay_steps": 400}),
    ({"name": "cosine", "warmup_steps": 100}, {"decay_steps": 1900, "warmup_steps": 100}),
    ({"name": "rsqrt"}, {"timescale_steps": 10_000}),
  ],
)
def test_a_longer_round_transfers_the_schedule_by_its_rule(tmp_path, schedule, expected):
  config = Config().override({"max_train_steps": 1000, "schedule": schedule})
  moved, _ = transferred(config, 2000)
  assert {name: getattr(moved, name) for name in expected} == expected
  results = searched(tmp_path, centre=-1.5)
  found = next_round(results, 2000)
  assert found.study.config is not None
  assert found.study.config.max_train_steps == 2000
  assert check(found.study).problems == []
  with pytest.raises(UserError, match="more steps"):
    next_round(results, 1000)


def test_a_search_is_not_called_settled_while_most_questions_about_the_curves_are_open(tmp_path, capsys):
  def rarely(config: Config):
    found = bowl(config, -1.5)
    assert found is not None
    steps, values = found["validation/error"]
    return {"validation/error": (steps[::25], values[::25])}

  study = Study(
    name="rate",
    goal="Which learning rate?",
    objective=Minimize("validation/error"),
    config=Config().override({"max_train_steps": 1000, "evaluation.every_steps": 20}),
    nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)},
    trials=40,
    search=Halton(seed=0),
  )
  results = Simulation(rarely)(study, tmp_path / "rate")
  found = next_step(results)
  assert found.kind == "unsure"
  assert any("evaluat" in reason for reason in found.reasons), found.reasons
  assert len(found.reasons) >= 3
  code, output, _ = outcome(capsys, "next", str(tmp_path / "rate"))
  assert code == 0
  assert "Stop searching" not in output
  assert "most questions about the curves are open" in output
  assert "Answer these first, or decide about the best point all the same." in output

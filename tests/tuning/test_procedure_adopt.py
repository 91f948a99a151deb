"""`adopt` decides between configurations with a known difference, and records what it adopts (PB-40 to PB-44)."""

import json
import pathlib

import numpy as np
import pytest
from json_lines import read_json_lines
from simulated_trainings import Simulation

from trialbook import files
from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning import Grid, Log, Minimize, Study
from trialbook.tuning.procedures import adopt, baseline
from trialbook.tuning.procedures.conclusion import write_config
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.records import read_study

BASELINE = Config().override({"optimizer.learning_rate": 0.1, "max_train_steps": 100})
BETTER = BASELINE.override({"optimizer.learning_rate": 0.2})


def noisy(gain: float, deviation: float = 0.01, pair: int = 0, dies: float = 0.0) -> Simulation:
  """Return the simulation of an error that a learning rate of 0.2 lowers by a gain, with noise from seed to seed."""

  def curves(config: Config):
    is_better = config.optimizer.learning_rate == 0.2
    rng = np.random.default_rng([pair, config.seed, is_better])
    if is_better and rng.random() < dies:
      return None
    end = 0.2 - gain * is_better + rng.normal(0, deviation)
    return {"validation/error": (np.array([0, 50, 100]), np.array([0.9, 0.5, end]))}

  return Simulation(curves)


def candidate(folder, config=BETTER):
  """Return the path of a config file."""
  (folder / "better").mkdir(parents=True, exist_ok=True)
  path = folder / "better" / "config.json"
  files.write_json(path, {"format": files.FORMAT, **config.model_dump(mode="json")})
  return path


def test_a_clear_gain_is_adopted_after_few_seeds_and_becomes_the_baseline(tmp_path):
  simulation = noisy(0.1)
  lab = Lab(folder=tmp_path / "adopt", config=BASELINE, runner=simulation)
  found = adopt.run(lab, candidate=candidate(tmp_path))
  assert found.changes == {"optimizer.learning_rate": 0.2}
  assert found.numbers["low"] > 0.04
  assert len(simulation.ran) <= 2 * 5
  seeds = {config.seed for config in simulation.ran}
  assert BASELINE.seed not in seeds
  assert stored_config(tmp_path / "recorded_baseline").optimizer.learning_rate == 0.2
  (line,) = read_json_lines(tmp_path / "recorded_baseline" / "adoptions.jsonl")
  assert line["numbers"]["decision"] == "adopt"
  # The same call decides the same, and neither trains nor records anything again.
  count = len(simulation.ran)
  again = adopt.run(Lab(folder=tmp_path / "adopt", config=BASELINE, runner=simulation), candidate=candidate(tmp_path))
  assert (again.verdict, len(simulation.ran)) == (found.verdict, count)
  assert len(read_json_lines(tmp_path / "recorded_baseline" / "adoptions.jsonl")) == 1


def test_a_loss_is_rejected_and_a_gain_below_the_margin_too(tmp_path):
  found = adopt.run(Lab(folder=tmp_path / "a", config=BASELINE, runner=noisy(-0.1)), candidate=candidate(tmp_path))
  assert (found.changes, found.numbers["decision"]) == ({}, "reject")
  lab = Lab(folder=tmp_path / "b", config=BASELINE, runner=noisy(0.02, 0.001))
  found = adopt.run(lab, candidate=candidate(tmp_path), margin=0.05)
  assert found.numbers["decision"] == "reject"
  assert "to be worth its complexity" in found.verdict
  assert not (tmp_path / "recorded_baseline").exists()


def test_what_cannot_be_decided_says_how_many_seeds_would_decide(tmp_path):
  simulation = noisy(0.004)
  found = adopt.run(
    Lab(folder=tmp_path / "a", config=BASELINE, runner=simulation), candidate=candidate(tmp_path), seeds=6
  )
  assert found.changes is None
  assert 10 < found.numbers["more"] < 1000
  assert f"--seeds={6 + found.numbers['more']}" in found.actions[0]
  assert len(simulation.ran) == 12


@pytest.mark.parametrize(("gain", "least", "most"), [(0.0, 0.0, 0.05), (0.01, 0.5, 1.0), (0.02, 0.9, 1.0)])
def test_few_of_200_pairs_are_adopted_wrongly(gain, least, most):
  rng = np.random.default_rng(0)
  looks = adopt.looks_until(20)
  adopted = 0
  for _ in range(200):
    ours, theirs = rng.normal(-gain, 0.01, 20).tolist(), rng.normal(0, 0.01, 20).tolist()
    verdict = "undecided"
    for look in looks:
      verdict = adopt.decision(adopt.difference(ours[:look], theirs[:look], 1, adopt.ERROR / len(looks)), 0.0)
      if verdict != "undecided":
        break
    adopted += verdict == "adopt"
  assert least <= adopted / 200 <= most


def test_both_are_trained_on_other_splits_on_request(tmp_path):
  simulation = noisy(0.1)
  lab = Lab(folder=tmp_path / "a", config=BASELINE, runner=simulation)
  found = adopt.run(lab, candidate=candidate(tmp_path), splits=3)
  assert len(found.numbers["other_splits"]) == 3
  assert "On 3 other splits of the data the candidate is better in 3" in found.evidence[-1]
  assert {config.dataset.split_seed for config in simulation.ran} == {0, 1, 2, 3}  # pyright: ignore
  lab = Lab(folder=tmp_path / "b", config=BASELINE.override({"dataset.name": "synthetic"}), runner=simulation)
  other = candidate(tmp_path, BETTER.override({"dataset.name": "synthetic"}))
  with pytest.raises(UserError, match="its splits are fixed"):
    adopt.run(lab, candidate=other, splits=3)


def test_a_candidate_that_dies_is_not_adopted_from_nothing(tmp_path):
  lab = Lab(folder=tmp_path / "a", config=BASELINE, runner=noisy(0.1, dies=1.0))
  found = adopt.run(lab, candidate=candidate(tmp_path), seeds=4)
  assert found.changes is None
  assert "the candidate has fewer than two seeds" in found.verdict


def searched(folder, **search) -> Simulation:
  """Run a study of learning rates in a folder, and return the simulation that ran it."""
  simulation = noisy(0.1)
  study = Study(
    name="rates",
    goal="Which?",
    objective=Minimize("validation/error"),
    config=BASELINE,
    nuisance={"optimizer.learning_rate": Log(0.05, 0.2)},
    **search,
  )
  simulation(study, folder)
  return simulation


def test_the_best_point_of_a_study_is_the_candidate(tmp_path):
  simulation = searched(tmp_path / "rates", search=Grid(per_dimension=3))
  found = adopt.run(Lab(folder=tmp_path / "a", config=BASELINE, runner=simulation), study=tmp_path / "rates")
  assert found.changes == {"optimizer.learning_rate": 0.2}
  assert "trial 2 of rates" in found.evidence[0]
  assert json.loads((tmp_path / "a" / "conclusion.json").read_text())["studies"] == ["candidate", "baseline"]


def test_the_recommended_config_is_the_candidate_with_all_its_host_fields(tmp_path):
  own = {"evaluation.every_steps": 5, "selection.metric": "validation/loss", "dataset.split_seed": 3}
  better = BETTER.override(own)
  # What a study changes for its trials is no recommendation.
  lab = Lab(folder=tmp_path / "adopt", config=BASELINE, runner=noisy(0.1))
  found = adopt.run(
    lab, candidate=candidate(tmp_path, better.override({"export": False, "logging.tensorboard": False}))
  )
  assert stored_config(tmp_path / "adopt" / "recommended") == better
  assert stored_config(tmp_path / "recorded_baseline") == better
  # What is compared is what is trained.
  assert "It changes 1 field" in found.evidence[0]


@pytest.mark.parametrize("what", ["a file", "a run", "the procedure `baseline`"])
def test_the_record_replaces_nothing_that_is_no_record(tmp_path, what):
  folder = tmp_path / "runs" / "kept"
  if what == "a file":
    folder.parent.mkdir()
    folder.write_text("mine")
  elif what == "a run":
    write_config(BASELINE, folder)
  else:
    baseline.run(Lab(folder=folder, config=BASELINE, runner=noisy(0.1)))
  before = content(folder)
  simulation = noisy(0.1)
  lab = Lab(folder=tmp_path / "runs" / "adopt", config=BASELINE, runner=simulation)
  with pytest.raises(UserError, match="--record=DIR"):
    adopt.run(lab, candidate=candidate(tmp_path), record=folder)
  assert simulation.ran == []
  assert content(folder) == before


def test_the_folder_of_the_procedure_baseline_is_free_for_it(tmp_path):
  baseline.run(Lab(folder=tmp_path / "baseline", config=BASELINE, runner=noisy(0.1)))
  before = content(tmp_path / "baseline")
  lab = Lab(folder=tmp_path / "adopt", config=BASELINE, runner=noisy(0.1))
  assert adopt.run(lab, candidate=candidate(tmp_path)).changes
  assert content(tmp_path / "baseline") == before


def content(path: pathlib.Path) -> dict[pathlib.Path, bytes]:
  """Return all files at a path."""
  return {one: one.read_bytes() for one in [path, *path.rglob("*")] if one.is_file()}


def test_mistakes_are_reported_before_anything_runs(tmp_path):
  simulation = noisy(0.1)
  lab = Lab(folder=tmp_path / "a", config=BASELINE, runner=simulation)
  for wrong, words in (
    ({}, "say what may be adopted"),
    ({"candidate": candidate(tmp_path, BASELINE)}, "the same config"),
  ):
    with pytest.raises(UserError, match=words):
      adopt.run(lab, **wrong)
  assert simulation.ran == []


def test_a_second_search_measures_the_variance_of_the_study(tmp_path):
  simulation = searched(tmp_path / "rates", trials=4)
  lab = Lab(folder=tmp_path / "a", config=BASELINE, runner=simulation)
  found = adopt.run(lab, study=tmp_path / "rates", seeds=3, second_search=True)
  again = read_study(tmp_path / "a" / "second_search")
  assert again.search == {"name": "halton", "seed": 1}
  assert found.numbers["study"] >= 0
  assert any("another search of the same space" in sentence for sentence in found.evidence)
  count = len(simulation.ran)
  lab = Lab(folder=tmp_path / "a", config=BASELINE, runner=simulation)
  assert adopt.run(lab, study=tmp_path / "rates", seeds=3, second_search=True).numbers == found.numbers
  assert len(simulation.ran) == count
  with pytest.raises(UserError, match="--second_search: only the best point of a --study"):
    adopt.run(lab, candidate=candidate(tmp_path), second_search=True)

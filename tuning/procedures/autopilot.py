"""The whole playbook unattended, within a budget: baseline, batch size, steps, rounds of search, adoption, the end.

Each stage is a procedure or a study in a folder of its own, and decides by its results alone. So the same call resumes:
what has ended is read, and what is missing is run. A person may stop it, edit the study file of a round that has not
begun, and go on. The test set is seen in the last stage only.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable

from trialbook.errors import UserError
from trialbook.progress import duration
from trialbook.tuning.procedures import (
  adopt,
  adopt_record,
  autopilot_logbook,
  baseline,
  batch_size,
  choosing,
  clip,
  conclusion,
  finish,
  max_steps,
  stability,
  warmup,
)
from trialbook.tuning.procedures.autopilot_budget import Budget
from trialbook.tuning.procedures.autopilot_flight import ADOPTION, EXPLORATION, LEAST_TRIALS, Flight
from trialbook.tuning.procedures.autopilot_rounds import MOST_ROUNDS, explore, round_folder
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.config_changes import changed, changes_in_words, recommended
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.results import StudyResults

PREPARATION = 0.25
"""Share of the budget that a procedure before the exploration, or a remedy within it, may cost at most."""
SWEEP_TRIALS = 10
"""Trainings that a procedure with a sweep of learning rates takes about, by which its cost is judged."""
MOST_SEEDS, LEAST_SEEDS = 12, 3
"""Seeds of each side for the adoption, and of the final trainings."""
STAGES = ("batch-size", "max-steps", "stability", "adopt")
"""Stages that can be left out."""


def run(
  lab: Lab,
  *,
  steps: int | None = None,
  hours: float | None = None,
  skip: str = "",
  search: str = "halton",
  search_seed: int | None = None,
) -> Conclusion:
  """Tune a config by the whole playbook within a budget.

  Args:
    lab: with the initial config.
    steps: training steps in all.
    hours: of work in all instead, with the starts of processes, compilation and evaluations; what earlier calls used
      counts.
    skip: stages that are left out, separated by commas, of `STAGES`.
    search: of the refined search, see `finish.run`.
    search_seed: of all its searches; None: that of an earlier call, or else the config's seed.
  """
  if search_seed is not None and search_seed < 0:
    raise UserError(f"--search_seed={search_seed}: the seed of a search should be a whole number from 0 on")
  flight = Flight(lab, lab.config, Budget(steps, hours))
  skipped = {name for name in skip.split(",") if name}
  if unknown := skipped - {*STAGES}:
    raise UserError(
      f"--skip={skip}: {', '.join(sorted(unknown))} is no stage that can be left out; those are {', '.join(STAGES)}"
    )
  found = _fly(flight, skipped, search, search_seed)
  flight.write(f"{'Finished' if found.changes is not None else 'Ended without a recommendation'}: {found.verdict}")
  lab.costs.append(f"{flight.budget.used_steps:,} training steps, {duration(flight.budget.used_seconds)} of work")
  return lab.conclude(found)


def _fly(flight: Flight, skipped: set[str], search: str, search_seed: int | None) -> Conclusion:
  """Run the stages, and return the conclusion."""
  total = flight.budget.steps or round((flight.budget.hours or 0.0) * 3600)
  if flight.plan["numbers"].get("budget", total) != total:
    # What follows exploration is planned by the budget, and begun.
    raise UserError(
      f"{flight.lab.folder} has ended its exploration with another budget, by which its adoption and its end are"
      " planned: give that one again, or choose another --dir"
    )
  seed = flight.decided("search_seed", lambda: flight.lab.config.seed if search_seed is None else search_seed)
  if search_seed not in (None, seed):
    raise UserError(
      f"--search_seed={search_seed}: {flight.lab.folder} has begun with {seed}; give that one, or leave the flag out,"
      " or choose another --dir"
    )
  # Before anything is run: the baseline costs two trainings, and a round `LEAST_TRIALS`.
  if flight.budget.steps is not None and flight.left(EXPLORATION) < (2 + LEAST_TRIALS) * flight.config.max_train_steps:
    return _too_small(flight, 2 + LEAST_TRIALS)
  if (first := _baseline(flight)) is not None:
    return first
  if "batch-size" not in skipped:
    _batch_size(flight)
  fits = flight.lab.ranked_by.metric.rpartition("/")[2] in ("error", "accuracy")
  if "max-steps" not in skipped and not fits:
    told = f"Left out: nothing says which value of {flight.lab.ranked_by.metric} is a perfect fit of the training set."
    flight.log("max steps", told, (), (0, 0.0), "By hand it is `trialbook tune max-steps --target=VALUE`.")
  elif "max-steps" not in skipped:
    _prepare(flight, "max steps", "2_max_steps", max_steps.run)
  if flight.left(EXPLORATION) < LEAST_TRIALS * flight.config.max_train_steps and not round_folder(flight, 1).exists():
    return _too_small(flight, LEAST_TRIALS)
  best = explore(flight, seed, None if "stability" in skipped else _stabilize)
  if best is None:
    return _nothing(flight)
  study, results = best
  flight.decided("budget", lambda: total)
  kept = "adopt" not in skipped and _adopt(flight, study, results)
  return _finish(flight, study, results, search, seed, kept)


def _baseline(flight: Flight) -> Conclusion | None:
  """Run the baseline; return a conclusion if nothing can be built on it."""
  flight.begin("baseline")
  of = flight.stage("0_baseline")
  found = baseline.run(of)
  cost = flight.budget.charge(of.results.values())
  if found.changes is None:
    flight.log("baseline", found.verdict, found.evidence, cost, "Nothing can be built on it.", of.folder)
    return Conclusion(
      procedure="autopilot",
      id="PB-07",
      verdict=f"Stopped at the baseline: {found.verdict}",
      evidence=found.evidence,
      numbers=flight.budget.as_json(),
      actions=found.actions,
    )
  consequence = "What follows starts from the configuration as it was given."
  if found.changes and _is_simpler_better(found, flight.lab.ranked_by.sign):
    flight.config = flight.config.override(dict(found.changes))
    consequence = "What follows starts from the simplified configuration, which is clearly better than the given one."
  elif found.changes:
    consequence += " Whether each of these parts helps is a question of its own, for `trialbook tune adopt`."
  flight.log("baseline", found.verdict, found.evidence, cost, consequence, of.folder)
  return None


def _is_simpler_better(found: Conclusion, sign: int) -> bool:
  """Return whether the simplified configuration is clearly better than the given one, or that did not train at all."""
  given, simple = found.table[0], found.table[1]
  values = [row[str(found.numbers["metric"])] for row in (given, simple)]
  if None in values:
    return values[0] is None
  error = math.hypot(*(row["standard error"] or 0.0 for row in (given, simple)))
  return sign * (values[0] - values[1]) > baseline.WORSE * error


def _batch_size(flight: Flight) -> None:
  flight.begin("batch size")
  of = flight.stage("1_batch_size")
  # Timings are not repeated: other ones might give another size, and with it another config for all that followed.
  found = conclusion.read(of.folder, of.config) or batch_size.run(of)
  cost = flight.budget.charge_measurements(of.folder)
  flight.log("batch size", found.verdict, found.evidence, cost, _use(flight, found), of.folder)


def _prepare(flight: Flight, stage: str, name: str, procedure: Callable[[Lab], Conclusion]) -> Conclusion | None:
  """Run a procedure, unless it costs too much, and take over what it recommends."""
  of = flight.stage(name)
  if not of.folder.exists() and not flight.pays(SWEEP_TRIALS, PREPARATION if stage == "max steps" else EXPLORATION):
    costs = f"about {SWEEP_TRIALS} trainings of {flight.config.max_train_steps:,} steps"
    flight.log(stage, f"Left out: {costs} are more than the budget has for it.", (), (0, 0.0))
    return None
  flight.begin(stage)
  found = procedure(of)
  cost = flight.budget.charge(of.results.values())
  flight.log(stage, found.verdict, found.evidence, cost, _use(flight, found), of.folder)
  return found


def _use(flight: Flight, found: Conclusion) -> str:
  """Take over what a procedure recommends, and return that in words."""
  if found.changes is None:
    return "Nothing is recommended, so the configuration stays as it is."
  if not found.changes:
    return "The configuration stays as it is."
  before = flight.config
  flight.config = before.override(dict(found.changes))
  return f"Changed: {changes_in_words(changed(before, flight.config))}."


def _stabilize(flight: Flight, number: int) -> None:
  """Look at the stability of training, and run the remedies that the playbook has for it, until one helps."""
  found = _prepare(flight, "stability", f"3_round_{number}_stability", stability.run)
  kind = None if found is None else found.numbers.get("kind")
  remedies = [("warmup", warmup), ("clipping", clip)]
  # In the playbook's order: what breaks early may need warmup, and what breaks later clipping.
  for name, remedy in {"early": remedies, "mid": remedies[::-1]}.get(str(kind), []):
    module = remedy.__name__.rpartition(".")[2]
    done = _prepare(flight, f"stability: {name}", f"3_round_{number}_{module}", remedy.run)
    if done is not None and done.changes:
      return


def _adopt(flight: Flight, study: pathlib.Path, results: StudyResults) -> bool:
  """Decide between the best point and the initial config; return whether that one is kept."""
  each = max((results.study.config or flight.config).max_train_steps, flight.lab.config.max_train_steps)
  seeds = flight.decided("adopt_seeds", lambda: min(flight.left(ADOPTION) // (2 * each), MOST_SEEDS))
  if seeds < LEAST_SEEDS:
    flight.log("adopt", f"Left out: the budget does not pay for {LEAST_SEEDS} seeds of each side.", (), (0, 0.0))
    return False
  flight.begin("adopt")
  of = dataclasses.replace(flight.stage("4_adopt"), config=flight.lab.config)
  found = adopt.run(of, study=study, seeds=seeds, record=flight.lab.folder / adopt_record.FOLDER)
  kept = _keeps_initial(found)
  consequence = "The search around the best point follows."
  if kept:
    consequence = "The initial configuration stays, since the best point is no better with fresh seeds."
  elif found.changes is None:
    consequence = "With fresh seeds the best point is better in the mean, so the search around it follows."
  flight.log("adopt", found.verdict, found.evidence, flight.budget.charge(of.results.values()), consequence, of.folder)
  return kept


def _keeps_initial(found: Conclusion) -> bool:
  """Return whether the initial config stays: the best point dies with more seeds, or is not better in the mean.

  The best point was chosen as the best of many, and its fresh seeds were not. So they decide, also where they are few.
  """
  died = found.numbers["died"]
  if died["candidate"] != died["baseline"]:
    return died["candidate"] > died["baseline"]
  return (found.changes is None and found.numbers.get("gain", 0.0) <= 0) or found.numbers.get("decision") == "reject"


def _finish(
  flight: Flight, study: pathlib.Path, results: StudyResults, search: str, seed: int, kept: bool
) -> Conclusion:
  """Run `finish`; of the initial config if that is kept."""
  config = results.study.config
  assert config is not None
  pays = max(flight.left() // config.max_train_steps - LEAST_SEEDS, 0)
  contenders = flight.decided("contenders", lambda: max(min(pays // choosing.CHOICE_SEEDS, choosing.CONTENDERS), 1))
  fresh = contenders * choosing.CHOICE_SEEDS if contenders > 1 else 0
  # A smaller search would find nothing that the exploration does not have.
  trials = flight.decided("refined_trials", lambda: pays - fresh if pays - fresh >= LEAST_TRIALS else 0)
  flight.begin("finish")
  of = flight.stage("5_finish")
  if kept:
    found = finish.evaluate(of, flight.lab.config, seeds=LEAST_SEEDS)
  else:
    # Seeds that no round has.
    found = finish.run(
      of,
      study=study,
      search=search,
      search_seed=seed + MOST_ROUNDS,
      trials=trials,
      contenders=contenders,
      seeds=LEAST_SEEDS,
    )
  final = flight.lab.config if kept else config.override(dict(found.changes or {}))
  differs = changed(flight.lab.config, final)
  changes = recommended(flight.lab.config, final)
  consequence = f"It changes {changes_in_words(differs)}." if differs else "It is the initial configuration."
  flight.log("finish", found.verdict, found.evidence, flight.budget.charge(of.results.values()), consequence, of.folder)
  return Conclusion(
    procedure="autopilot",
    id="PB-43",
    verdict=found.verdict,
    evidence=[f"{entry.stage}: {entry.decision} {entry.consequence}".strip() for entry in flight.entries],
    changes=changes if found.changes is not None else None,
    numbers={**found.numbers, **flight.budget.as_json()},
    table=found.table,
    actions=[
      *found.actions,
      f"Read each decision with its evidence in {flight.lab.folder / autopilot_logbook.PAGE}.",
    ],
  )


def _too_small(flight: Flight, trials: int) -> Conclusion:
  """Return the conclusion that the budget does not pay for a number of trainings that exploration needs."""
  each = flight.config.max_train_steps
  needed = flight.budget.needed(trials * each, EXPLORATION)
  found = Conclusion(
    procedure="autopilot",
    id="PB-16",
    verdict=f"A budget of {flight.budget.words} is too small: exploration has {EXPLORATION:.0%} of it, and needs"
    f" {LEAST_TRIALS} trials of {each:,} steps at least.",
    numbers={**flight.budget.as_json(), "needed": needed},
    actions=[f"Give at least {flight.budget.flag}={needed:.12g}, or train for fewer steps (--set max_train_steps=…)."],
  )
  flight.log("budget", found.verdict, found.actions, (0, 0.0))
  return found


def _nothing(flight: Flight) -> Conclusion:
  last = flight.entries[-1]
  return Conclusion(
    procedure="autopilot",
    id="PB-21",
    verdict="No trial of the exploration has a value, so nothing is recommended.",
    evidence=[f"{entry.stage}: {entry.decision}" for entry in flight.entries],
    numbers=flight.budget.as_json(),
    actions=list(last.evidence) or ["Read the logs of the trials."],
  )


LATER = "Later stages depend on results: batch size, number of steps, rounds of search, adoption, and the final search."
"""What may be run after the first study."""

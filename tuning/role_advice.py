"""Comments on the objective and the roles of hyperparameters, by rules of thumb; nothing is forbidden (PB-12)."""

from collections.abc import Iterator, Sequence

from trialbook.metric_names import contradiction
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import Study

_STRENGTHS = (
  "dropout_rate",
  "weight_decay",
  "label_smoothing",
  "mixup_alpha",
  "erasing_probability",
  "flip_probability",
  "cutmix_alpha",
  "color_jitter",
  "policy_magnitude",
)


def warnings(study: Study, hyperparameters: Sequence[Hyperparameter]) -> Iterator[str]:
  """Yield what makes the conclusions of a study doubtful: each with the reason, and what to do instead."""
  if wrong := contradiction(study.objective.metric, study.objective.mode):
    yield f"objective: {wrong}"
  if study.config is None:
    return
  for one in hyperparameters:
    field = one.path.rpartition(".")[2]
    if one.path == "batch_size":
      yield (
        "batch_size is varied: it is chosen for throughput and not for validation quality, which does not depend on it"
        " where the optimizer, regularization and the number of steps are tuned for each size; take the largest that"
        " still raises throughput, fix it, and retune the optimizer's and regularization hyperparameters whenever it"
        " changes (PB-05)"
      )
    elif one.path == "max_train_steps":
      yield (
        "max_train_steps is varied: trials of different lengths do not compete fairly, and the step is selected in"
        " retrospect anyway; fix it, look where the best steps lie, and change it between studies (PB-61)"
      )
    elif one.sets == "name" and one.path == "optimizer" and one.role == "nuisance":
      yield (
        "optimizer is a nuisance hyperparameter: its other hyperparameters mean something else for each optimizer, so"
        " the best choice changes with the space; make it scientific, or fix it (PB-12)"
      )
    elif f"{one.path}.".startswith("model.") and one.role == "nuisance" and one.static:
      yield (
        f"{one.name} is architecture, and a nuisance hyperparameter: it changes what a trial costs, and each value is"
        " a program of its own; make it scientific, or fix it (PB-12)"
      )
    elif one.sets == "presence" and one.role == "nuisance":
      yield (
        f"{one.name}: whether a feature is there is scientific or fixed, its strength is nuisance (PB-12); make it"
        " scientific"
      )
    elif field in _STRENGTHS and one.role == "scientific" and one.parent is None and not hasattr(one.scale, "values"):
      yield (
        f"{one.name} is scientific on a continuous scale: whether a regularizer is there is the question, its strength"
        " is to be tuned; compare values from a list, or make it nuisance (PB-12)"
      )
  yield from _about_the_optimizer(hyperparameters)


def _about_the_optimizer(hyperparameters: Sequence[Hyperparameter]) -> Iterator[str]:
  """Yield a warning unless what is compared is compared at its best: the learning rate, and some more, has to be tuned
  for it."""
  scientific = [one for one in hyperparameters if one.role == "scientific" and one.path != "seed"]
  if not scientific:
    return
  tuned = [one for one in hyperparameters if one.path.startswith("optimizer.")]
  rates = {one.parent for one in tuned if one.path == "optimizer.learning_rate"}
  optimizer = next((one for one in scientific if one.sets == "name" and one.path == "optimizer"), None)
  if None in rates:
    return
  if optimizer is not None:
    values = optimizer.scale.values  # pyright: ignore[reportAttributeAccessIssue]
    for value in values:
      if (optimizer.name, value) not in rates:
        yield (
          f"optimizer {value!r} is compared with a fixed learning rate, and which one suits differs by orders of"
          f' magnitude; tune it: OneOf({{"{value}": {{"learning_rate": Log(...)}}}}) (PB-11, PB-12)'
        )
  elif not tuned:
    yield (
      f"none of the optimizer's hyperparameters is tuned, while {scientific[0].name} is compared: the settings that are"
      " fixed may suit one value better than another; make optimizer.learning_rate nuisance at least, which is enough"
      " for fewer than 10 trials (PB-12, PB-17)"
    )
  elif not rates:
    yield (
      f"optimizer.learning_rate is fixed while {tuned[0].name} is varied: it is the first that has to be tuned; make it"
      " nuisance (PB-12)"
    )

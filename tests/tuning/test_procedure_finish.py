"""The final trainings of `finish` look at the test set, whatever the exploration did without (PB-43)."""

import pytest

from trialbook.trainer import Config
from trialbook.tuning.procedures.finish import final_changes


@pytest.mark.parametrize("every", [0, 1, 5])
def test_the_final_trainings_have_a_checkpoint_that_sees_the_test_set(every: int):
  explored = Config().override({"checkpointing.every_evaluations": every})
  final = explored.override(final_changes(explored))
  assert final.evaluation.test
  assert final.checkpointing.every_evaluations == max(every, 1)

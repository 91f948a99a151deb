"""What the tests are known to notice: the deliberate breaks of `breaks.py`."""

import pytest
from breaks import BREAKS, ROOT, Break, first_failure


@pytest.mark.parametrize("mistake", BREAKS, ids=lambda mistake: mistake.name.replace(" ", "_"))
def test_a_break_can_still_be_made(mistake: Break):
  assert (ROOT / mistake.file).read_text().count(mistake.old) == 1
  assert (ROOT / mistake.tests.partition("::")[0]).exists()


@pytest.mark.slow
def test_a_break_is_made_in_the_code_that_its_tests_import():
  (mistake,) = (mistake for mistake in BREAKS if mistake.file == "input_pipeline/permutation.py")
  assert first_failure(mistake.tests, mistake.tier, mistake) is not None

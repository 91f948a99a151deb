"""What the tests are known to notice: the deliberate breaks of `breaks.py`."""

import pytest
from breaks import BREAKS, ROOT, Break


@pytest.mark.parametrize("mistake", BREAKS, ids=lambda mistake: mistake.name.replace(" ", "_"))
def test_a_break_can_still_be_made(mistake: Break):
  assert (ROOT / mistake.file).read_text().count(mistake.old) == 1
  assert (ROOT / mistake.tests.partition("::")[0]).exists()

"""Tables of the documentation are replaced by those that their commands print, and dated, or stay as they are."""

import pytest

from benchmarks.evidence import PAGES, TABLE, replaced, sections

PAGE = """
Last changed on 2026-01-02 at commit `abc1234`.

| a | b |
|---|---:|
| 1 | 2 |

Words between.

| c |
|---|
| 3 |
"""
WHEN = "Measured on 2026-11-29 at commit `def5678`."


def test_all_tables_of_a_section_are_replaced_and_dated():
  printed = "words\n| a | b |\n|---|---:|\n| 5 | 6 |\n| 7 | 8 |\n\n| c |\n|---|\n| 4 |\n"
  assert replaced(PAGE, printed, WHEN).split("\n\n") == [
    f"\n{WHEN}",
    "| a | b |\n|---|---:|\n| 5 | 6 |\n| 7 | 8 |",
    "Words between.",
    "| c |\n|---|\n| 4 |\n",
  ]


@pytest.mark.parametrize("printed", ["", "| a | b |\n|---|---:|\n| 5 | 6 |\n", "| a | z |\n|---|---|\n| 5 | 6 |\n"])
def test_a_section_of_which_a_table_is_missing_is_not_dated(printed: str):
  with pytest.raises(ValueError, match="the page has tables of the headers"):
    replaced(PAGE, printed, WHEN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_a_page_has_dated_tables(page):
  text = page.read_text()
  assert sections(text)
  for command, start, end in sections(text):
    assert TABLE.search(text[start:end]), command
    assert text[start:end].lstrip().startswith(("Measured on ", "Last changed on ")), command

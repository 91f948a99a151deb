"""Tables of the documentation are replaced by those that their commands print, and dated, or stay as they are."""

import pytest

from benchmarks import pods
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


def test_a_row_of_pods_is_merged_into_its_table_and_the_others_stay():
  header, keys = ("a", "b", "c"), [("1", "x"), ("2", "x"), ("3", "x")]
  page = (
    "before\n\n| a | b | c | measured |\n|---|---|---|---|\n| 9 | x | gone | old |\n| 3 | x | kept | old |\n\nafter |\n"
  )
  page = pods.merged(page, header, keys, ("2", "x"), ["new", "today"])
  assert pods.printed(page, header) == (
    "| a | b | c | measured |\n|---|---|---|---|\n| 2 | x | new | today |\n| 3 | x | kept | old |\n"
  )
  again = pods.merged(page, header, keys, ("2", "x"), ["newer", "today"])
  assert again == page.replace("new |", "newer |")
  assert page.startswith("before\n\n|")
  assert page.endswith("old |\n\nafter |\n")
  with pytest.raises(ValueError, match="the page has no table"):
    pods.merged(page, ("other",), keys, ("2",), [])


def test_every_table_of_pods_is_in_its_page():
  page = pods.PAGE.read_text()
  for table in pods.tables():
    assert pods.printed(page, table.header)
    assert len({row.key for row in table.rows}) == len(table.rows)

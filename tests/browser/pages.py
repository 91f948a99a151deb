"""A page that was opened in a browser, and what the tests of pages share."""

import dataclasses
import os
import pathlib
from typing import Any

SCREENSHOTS = pathlib.Path(os.environ.get("SCREENSHOTS", "runs/screenshots"))
"""Where pictures of the pages are left, for people to look at."""
WIDTHS = {"phone": 390, "laptop": 1440}
FIGURES = "#plot-list figure"
ITEM_OF_TRIAL = """
([plot, trial]) => {
  const walk = (mark, x, y) => mark.items.flatMap((item) =>
    mark.marktype === "group" ? item.items.flatMap((inner) => walk(inner, x + item.x, y + item.y))
    : mark.marktype === "symbol" && item.datum?.trial === trial ? [[x + item.x, y + item.y]] : []);
  const view = drawn.get(plot), [left, top] = view.origin(), around = view.padding();
  return walk(view.scenegraph().root, left + around.left, top + around.top)[0];
}
"""
"""Where a plot has drawn a trial, in pixels from the chart's corner."""


@dataclasses.dataclass
class Opened:
  """A page, and all that it said or asked for since it was opened.

  Attributes:
    page: Playwright's.
    messages: of the console, and errors that no script caught.
    requests: of anything but the file itself.
    dialogs: windows that a script opened.
  """

  page: Any
  messages: list[str]
  requests: list[str]
  dialogs: list[str]

  def draw_all(self) -> int:
    """Scrolls through the page until each plot is drawn; returns how many there are."""
    count = self.page.locator(FIGURES).count()
    for number in range(count):
      figure = self.page.locator(FIGURES).nth(number)
      figure.scroll_into_view_if_needed()
      self.page.wait_for_function("figure => figure.dataset.drawn", arg=figure.element_handle())
    return count

  def ranking(self) -> list[str]:
    """The trials in the order of the table."""
    return self.page.locator("#table tbody tr td:first-child").all_inner_texts()

"""The page of a report, as a reader uses it."""

import pathlib

import csv_studies
import pytest
from pages import FIGURES, ITEM_OF_TRIAL, SCREENSHOTS, WIDTHS

from trialbook.tuning import report

pytestmark = pytest.mark.long


def test_every_plot_is_drawn_without_a_message_or_a_request(demo, open_page):
  for name, width in WIDTHS.items():
    for scheme in ("light", "dark"):
      opened = open_page(demo, width, scheme)
      assert opened.draw_all() > 10
      page = opened.page
      drawn = page.locator(FIGURES).evaluate_all("figures => figures.map(figure => figure.dataset.drawn)")
      assert set(drawn) == {"yes"}
      # A canvas that was never painted is all transparent.
      painted = page.locator(f"{FIGURES} canvas").evaluate_all(
        "all => all.map(one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some(byte => byte))"
      )
      assert len(painted) == len(drawn)
      assert all(painted)
      assert page.evaluate("document.documentElement.scrollWidth") == width
      assert opened.messages == []
      assert opened.requests == []
      SCREENSHOTS.mkdir(parents=True, exist_ok=True)
      page.evaluate("scrollTo(0, 0)")
      page.wait_for_timeout(200)
      page.screenshot(path=SCREENSHOTS / f"report_{name}_{scheme}.png", full_page=True)


def test_a_trial_that_is_clicked_in_a_plot_is_selected_everywhere(demo, open_page):
  opened = open_page(demo)
  opened.draw_all()
  page = opened.page
  worst = int(opened.ranking()[-1])
  plot = page.evaluate("data.plots.find(plot => plot.id.startsWith('axis:optimizer.weight_decay')).id")
  x, y = page.evaluate(ITEM_OF_TRIAL, [plot, worst])
  canvas = page.locator(f"#plot-{page.evaluate('id => data.plots.findIndex(plot => plot.id === id)', plot)} canvas")
  canvas.scroll_into_view_if_needed()
  canvas.click(position={"x": x, "y": y})
  assert page.locator("#selection").inner_text().startswith(f"trial {worst}")
  assert page.locator("#table tr.selected td:first-child").inner_text() == str(worst)
  page.wait_for_function("trial => [...drawn.values()].every(view => view.signal('selected') === trial)", arg=worst)
  assert page.evaluate("trial => drawn.get('curves').data('curves').some(row => row.trial === trial)", worst)
  page.keyboard.press("Escape")
  assert page.locator("#selection").is_hidden()
  assert page.locator("#table tr.selected").count() == 0
  page.wait_for_function("[...drawn.values()].every(view => view.signal('selected') === -1)")
  assert opened.messages == []


def test_a_row_of_the_table_selects_and_lets_go(demo, open_page):
  opened = open_page(demo)
  row = opened.page.locator("#table tbody tr").nth(3)
  row.click()
  assert opened.page.locator("#selection").inner_text().startswith(f"trial {opened.ranking()[3]}")
  row.click()
  assert opened.page.locator("#selection").is_hidden()


def test_another_objective_changes_ranking_answer_plots_and_findings(demo, open_page):
  opened = open_page(demo)
  opened.draw_all()
  page = opened.page
  labels = page.locator("#objective option").all_inner_texts()
  assert labels[0] == "validation/error, best"
  before = (opened.ranking(), page.locator("#best").inner_text(), page.locator("#finding-list").inner_html())
  page.select_option("#objective", label="train_subset/loss, last")
  after = (opened.ranking(), page.locator("#best").inner_text(), page.locator("#finding-list").inner_html())
  assert all(one != other for one, other in zip(before, after, strict=True))
  assert "train_subset/loss" in after[1]
  opened.draw_all()
  shown = page.evaluate("[...new Set(drawn.get('curves').data('curves').map(row => row.metric))]")
  assert shown == ["train_subset/loss"]
  values = page.evaluate("drawn.get('curves') && table('trials').map(row => row.objective)")
  best = page.evaluate("table('trials').find(row => row.best).objective")
  assert best == min(value for value in values if value is not None)
  assert opened.messages == []


def test_the_table_sorts_by_any_column_and_filters(demo, open_page):
  page = open_page(demo).page
  column = "#table tbody tr td:nth-child({})"
  names = page.locator("#table th button").all_inner_texts()
  seconds = names.index("seconds") + 1
  for direction, expected in (("ascending", False), ("descending", True)):
    page.locator("#table th button").nth(seconds - 1).click()
    values = [float(text) for text in page.locator(column.format(seconds)).all_inner_texts()]
    assert values == sorted(values, reverse=expected)
    assert page.locator("#table th").nth(seconds - 1).get_attribute("aria-sort") == direction
  page.fill("#filter", "nesterov")
  optimizer = names.index("optimizer") + 1
  assert set(page.locator(column.format(optimizer)).all_inner_texts()) == {"nesterov"}


def test_words_in_a_wide_table_are_not_broken(tmp_path, open_page):
  values = {f"hyperparameter_{number}": 0.1 * number for number in range(14)}
  trials = [
    {"method": ("a_method_of_one_word", "other")[k % 2], **{name: v * k for name, v in values.items()}}
    for k in range(1, 4)
  ]
  curves = {number: {"validation/error": csv_studies.bowl(0.01)} for number in range(3)}
  page = open_page(report(csv_studies.imported(tmp_path / "wide", trials, curves))).page
  cell = page.locator("#table td", has_text="a_method_of_one_word").first
  lines = (
    "one => { const all = document.createRange(); all.selectNodeContents(one); return all.getClientRects().length }"
  )
  assert cell.evaluate(lines) == 1


def test_a_finding_leads_to_its_plot(demo, open_page):
  page = open_page(demo).page
  page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
  see = page.locator(".finding .see").first
  see.click()
  assert page.locator("figure.found").count() == 1
  assert page.locator("figure.found").evaluate(
    "one => { const box = one.getBoundingClientRect(); return box.top < innerHeight && box.bottom > 0 }"
  )


def test_a_scale_is_switched_between_linear_and_logarithmic(demo, open_page):
  opened = open_page(demo)
  opened.draw_all()
  page = opened.page
  figure = page.locator(FIGURES).filter(has=page.locator(".switch:enabled")).first
  kind = "index => drawn.get(data.plots[index].id).scale('y').type"
  index = int(figure.get_attribute("data-plot") or "")
  before = page.evaluate(kind, index)
  figure.locator(".switch").click()
  page.wait_for_function("figure => figure.dataset.drawn", arg=figure.element_handle())
  assert {before, page.evaluate(kind, index)} == {"linear", "log"}


def test_the_scheme_is_switched(demo, open_page):
  page = open_page(demo, scheme="light").page
  paper = "getComputedStyle(document.body).backgroundColor"
  light = page.evaluate(paper)
  page.click("#scheme")
  assert page.evaluate(paper) != light


def test_texts_of_a_study_never_run_and_are_shown_as_they_are(hostile, open_page):
  opened = open_page(hostile)
  opened.draw_all()
  page = opened.page
  page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
  page.locator("#table tbody tr", has_text="infeasible").click()
  assert "<script>alert(1)</script>" in page.locator(".kicker").inner_text()
  assert "<img src=x onerror=alert(2)>" in page.locator("#selection").inner_text()
  assert page.title().startswith("<script>alert(1)</script>")
  assert page.locator("main script, main img, aside script, aside img").count() == 0
  page.wait_for_timeout(200)
  assert opened.dialogs == []
  assert opened.messages == []
  assert opened.requests == []


def test_a_script_that_got_into_the_page_would_not_run(hostile, tmp_path, open_page):
  changed: pathlib.Path = tmp_path / "changed.html"
  changed.write_text(
    hostile.read_text().replace("</main>", "<img src=x onerror=alert(4)><script>alert(5)</script></main>")
  )
  opened = open_page(changed)
  opened.page.wait_for_timeout(300)
  assert opened.dialogs == []
  assert any("Content Security Policy" in message for message in opened.messages)

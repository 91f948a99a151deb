"""Reports in a real browser: Debian's chromium, without a window and without a network."""

import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pages import Opened

from trialbook.experiments.studies import digits_optimizer
from trialbook.tuning import report, run_study
from trialbook.tuning.importers.importing import import_study

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
  sync_api = pytest.importorskip("playwright.sync_api", reason="`make test-long` installs it")
  if CHROMIUM is None:
    pytest.skip("there is no chromium here")
  with sync_api.sync_playwright() as playwright:
    # Chromium's sandbox needs rights that root in a container lacks; the pages are ours.
    launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield launched
    launched.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Opened]]:
  """Opens a file at a width, in a colour scheme."""
  contexts = []

  def opened(path: pathlib.Path, width: int = 1440, scheme: str = "light") -> Opened:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    contexts.append(context)
    made = Opened(context.new_page(), [], [], [])
    page = made.page
    page.on("console", lambda message: made.messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: made.messages.append(str(error)))
    page.on("request", lambda request: made.requests.append(request.url))
    page.on("dialog", lambda dialog: (made.dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(path.resolve().as_uri())
    made.requests.remove(path.resolve().as_uri())
    return made

  yield opened
  for context in contexts:
    context.close()


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> pathlib.Path:
  """The report of the study that `make demo` runs; with DEMO_STUDY, of one that it has run already."""
  done = os.environ.get("DEMO_STUDY")
  folder = tmp_path_factory.mktemp("runs") / "demo"
  if done is None:
    run_study(digits_optimizer.get_study(), folder, workers=2)
  return report(done or folder, folder.with_suffix(".html"))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> pathlib.Path:
  """The report of a study whose every text would be a script, if it were let."""
  source = tmp_path_factory.mktemp("hostile")
  attack = "<script>alert(1)</script><img src=x onerror=alert(2)>"
  quoted = '"</script><script>alert(3)</script>"'
  (source / "trials.csv").write_text(
    f"trial,state,reason,rate,{quoted}\n"
    + "".join(f"{number},complete,,{number + 1},{quoted}\n" for number in range(8))
    + f"8,infeasible,{attack},0.5,{attack}\n"
  )
  (source / "curves.csv").write_text(
    "trial,step,metric,value\n"
    + "".join(
      f"{trial},{step},validation/error,{0.1 + trial / 100 + 1 / step}\n" for trial in range(8) for step in range(1, 30)
    )
  )
  folder = tmp_path_factory.mktemp("runs") / "hostile"
  (study,) = import_study("csv", source, folder, name=attack, goal=f"{attack} or {quoted}?")
  return report(study)

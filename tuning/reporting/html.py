"""The report as one HTML file that needs nothing beside it: no network, no server, no other file."""

import base64
import contextlib
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
import vl_convert

import trialbook
from trialbook.files import write_text
from trialbook.paths import as_path

_HERE = pathlib.Path(__file__).parent


def html(data: Mapping[str, Any], banner: str | None = None) -> str:
  """Return the page of `reporting.page_data.page_data`; `banner` stands on top, if something is to be said first.

  Nothing of a study can run as script: its texts are in JSON, in which no tag can begin, and the page sets them as
  text; and a browser runs only the scripts whose hashes the page's policy names.
  """
  script = (_HERE / "page.js").read_text()
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  template = environment.from_string((_HERE / "page.html.j2").read_text())
  return template.render(
    name=data["study"]["name"],
    goal=data["study"]["goal"],
    banner=banner,
    version=trialbook.__version__,
    css=(_HERE / "page.css").read_text(),
    data=embedded(data),
    libraries=libraries(),
    script=script,
    hashes=" ".join(f"'sha256-{_sha256(text)}'" for text in (libraries(), script)),
  )


def embedded(value: Any) -> str:
  """Return JSON that may stand inside a script element: it contains no tag and no comment of HTML, and no line break
  that JavaScript forbids."""
  text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
  return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@functools.cache
def libraries() -> str:
  """Return the code of Vega, Vega-Lite and Vega-Embed, 0.9 MB.

  Bundling takes two seconds. The result is the same for each page, so it is kept in ~/.cache/trialbook/pages.
  """
  with contextlib.suppress(OSError, ValueError):
    return _kept().read_text(encoding="utf-8")
  code = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
  # A page needs no place to keep it.
  with contextlib.suppress(OSError, ValueError):
    _kept().parent.mkdir(parents=True, exist_ok=True)
    write_text(_kept(), code)
  return code


def _kept() -> pathlib.Path:
  return as_path(f"~/.cache/trialbook/pages/vega_of_vl_convert_{vl_convert.__version__}.js")


def _sha256(text: str) -> str:
  return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

"""A page as a browser reads it."""

import html.parser


class Page(html.parser.HTMLParser):
  """What a browser reads of a page: its tags with their attributes, and the texts of scripts and styles."""

  def __init__(self, text: str):
    super().__init__()
    self.tags: list[tuple[str, dict[str, str | None]]] = []
    self.raw: dict[str, list[str]] = {"script": [], "style": []}
    self._inside: str | None = None
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    self._inside = tag if tag in self.raw else None
    if self._inside:
      self.raw[tag].append("")

  def handle_endtag(self, tag):
    self._inside = None

  def handle_data(self, data):
    if self._inside:
      self.raw[self._inside][-1] += data

  @property
  def policy(self) -> dict[str, list[str]]:
    content = next(of["content"] for _, of in self.tags if of.get("http-equiv") == "Content-Security-Policy")
    return {words[0]: words[1:] for part in (content or "").split(";") if (words := part.split())}

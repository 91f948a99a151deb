"""The report of a study: one HTML file with the playbook's checklist answered; the same as text, JSON, pictures."""

from typing import Literal, get_args

Format = Literal["html", "md", "json", "png", "svg"]
FORMATS: tuple[Format, ...] = get_args(Format)

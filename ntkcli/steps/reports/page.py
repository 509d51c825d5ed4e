"""The HTML page: the template filled by jinja2 with autoescape, figures as inert JSON, scripts named by their digests.

Text of rows is hostile. It reaches the page as escaped text, or inside JSON in which no `<`, `>` or `&` is left.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ntkcli.steps.reports.blocks import Plot, Section, shown
from ntkcli.steps.reports.texts import visible


@dataclass(frozen=True, slots=True)
class About:
    """What the head of a report says: the store's name, the program, when, and the mark of our files."""

    store: str
    made_by: str
    when: str
    mark: str


def write(about: About, sections: Sequence[Section], damaged: Sequence[tuple[str, str]], repair: str) -> str:
    """The whole page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("ntkcli.steps.reports", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = lambda value: visible(str(value))
    environment.filters["json"] = lambda value: Markup(json_for_script(value))  # noqa: S704  # escaped for a script
    environment.globals["shown"] = shown
    environment.globals["kind"] = lambda block: type(block).__name__.lower()
    plotly = _plotly() if any(isinstance(block, Plot) for section in sections for block in section.blocks) else ""
    scripts = [script for script in (plotly, _asset("table.js"), _asset("page.js")) if script]
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(_digest(script) for script in scripts)}",
            "style-src 'unsafe-inline'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return environment.get_template("template.html.j2").render(
        about=about,
        sections=sections,
        damaged=damaged,
        repair=repair,
        policy=policy,
        style=Markup(_asset("style.css")),  # noqa: S704  # our own file
        scripts=[Markup(script) for script in scripts],  # noqa: S704  # our own files, and plotly's
    )


def json_for_script(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _asset(name: str) -> str:
    return (files("ntkcli.steps.reports") / "html" / name).read_text(encoding="utf-8").strip()


@cache
def _plotly() -> str:
    """plotly's own script, as the package carries it; a closing tag in it would end the element."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("\r\n", "\n").replace("</script", "<\\/script")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"

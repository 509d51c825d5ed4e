"""Texts of software licences, out of the package licensedcode-data. Knows nothing of models."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ntkcli.demo.packages import data_folder
from ntkcli.demo.text import NearDuplicates, Text, rank

SOURCE = "licence"
MIN_CHARS, MAX_CHARS = 600, 1_500  # about 150 to 400 tokens of SmolLM2
_FRONT = re.compile(r"---\n.*?\n---\n(.*)", re.DOTALL)


def licences(seed: int) -> Iterator[Text]:
    """Texts of licences in the seed's order, none a near-duplicate of an earlier one; about 250 in all."""
    folder = data_folder("licensedcode", "data") / "licenses"
    near = NearDuplicates()
    for path in sorted(folder.glob("*.LICENSE"), key=lambda path: rank(seed, path.name)):
        front = _FRONT.match(path.read_text(encoding="utf-8"))
        text = front[1].strip() if front else ""
        if MIN_CHARS <= len(text) <= MAX_CHARS and not near.has(text):
            near.add(text)
            yield {"id": path.stem, "source": SOURCE, "text": text}

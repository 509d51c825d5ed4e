"""The card's head, read back by the Hub's own library."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from ntkcli.steps.training.model_card import model_card

SPEC = {"rank": 16, "alpha": 32.0, "target_modules": "all-linear"}


@pytest.mark.parametrize(
    "base", ["org/name", "/a folder/x: y # z", "'quoted' \"twice\"", "line\n---\nbreak", "yes", "1"]
)
def test_the_head_reads_back(base: str) -> None:
    card = model_card("r", base_model=base, spec=SPEC, sets=[], metrics={}, command=["ntksel", "finetune"])
    read = ModelCard(card)
    assert read.data.base_model == base
    assert read.data.library_name == "peft"
    assert read.text.startswith("\n# r\n")

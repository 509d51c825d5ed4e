"""Variables that libraries read are out of sight within, and back after, whatever happens."""

from __future__ import annotations

import os

import pytest

from ntkcli.engine.training.library_variables import without_settings


def test_hidden_within_and_back_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setenv("ACCELERATED", "kept")
    monkeypatch.delenv("FSDP_VERSION", raising=False)
    with without_settings():
        assert not {"ACCELERATE_MIXED_PRECISION", "NVIDIA_TF32_OVERRIDE"} & set(os.environ)
        assert os.environ["ACCELERATED"] == "kept"
        os.environ["ACCELERATE_MIXED_PRECISION"] = os.environ["FSDP_VERSION"] = "2"  # as TrainingArguments does
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "1"
    assert "FSDP_VERSION" not in os.environ

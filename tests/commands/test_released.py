"""A model is gone once its command is over: without the garbage collector after features and exact scores."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ntkcli.engine.models import loading
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows

Models = list["weakref.ref[Any]"]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[Models]:
    """Weak references to the models that are loaded; the collector runs only when a test says so."""
    seen: Models = []
    load: Callable[..., Any] = loading.load_model

    def loaded(*args: Any, **kwargs: Any) -> Any:
        found = load(*args, **kwargs)
        seen.append(weakref.ref(found.model))
        return found

    monkeypatch.setattr(loading, "load_model", loaded)
    gc.disable()
    yield seen
    gc.enable()


def alive(models: Models) -> int:
    return sum(model() is not None for model in models)


def test_after_features_and_exact_scores(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, models: Models
) -> None:
    store, data = tmp_path / "s", write_jsonl("d.jsonl", prompt_rows(6))
    for kind in ("ntk", "embed"):
        ran = cli(
            "featurize", store, "--data", data, "--name", "d", "--kind", kind, "--model", model_dir, "--dim", "64"
        )
        assert ran.code == 0, ran.err
    assert (len(models), alive(models)) == (2, 0)
    ran = cli("score", store, "--pool", "d", "--domain", "d", "--method", "exact", "--name", "e", "--feature", "ntk")
    assert ran.code == 0, ran.err
    assert (len(models), alive(models)) == (3, 0)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_after_a_training_and_an_evaluation(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, models: Models
) -> None:
    """Nothing but circles holds them: on a GPU each step ends with the collector (`free_memory`)."""
    store, data = tmp_path / "s", write_jsonl("d.jsonl", prompt_rows(6))
    ran = cli("finetune", store, "--model", model_dir, "--train", data, "--name", "r", "--epochs", "1")
    assert ran.code == 0, ran.err
    gc.collect()
    assert (len(models), alive(models)) == (1, 0)
    runs = ("--run", "base", "--run", "r", "--task", data, "--scorer", "loss", "--name", "e")
    ran = cli("eval", store, "--model", model_dir, *runs)
    assert ran.code == 0, ran.err
    gc.collect()
    assert (len(models), alive(models)) == (2, 0)


def test_a_device_is_swept_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from ntkcli.steps.shared.release import frees_memory

    swept: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: swept.append("cache"))
    monkeypatch.setattr(gc, "collect", lambda: swept.append("circles"))
    assert frees_memory(lambda x: [*swept, x])(1) == [1]
    assert swept == ["circles", "cache"]

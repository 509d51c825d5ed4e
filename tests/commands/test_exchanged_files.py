"""A file that is exchanged while a command runs: never values of one file under the digest of another."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ntkcli.engine.models.loading import load_model
from ntkcli.identity import resolve_model
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows, write_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it

VERBS = ("featurize", "finetune", "eval", "exact")


@pytest.fixture
def model(tmp_path: Path, model_dir: Path) -> Path:
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


@pytest.fixture
def adapter(tmp_path: Path, model: Path, cli: Cli, write_jsonl: Writer) -> Path:
    """An adapter of the model, made by us."""
    data = write_jsonl("a.jsonl", prompt_rows(2))
    assert cli("finetune", tmp_path / "a", "--train", data, "--name", "a", "--epochs", "1", "--model", model).code == 0
    return tmp_path / "a" / "adapters" / "a"


def command(verb: str, store: Path, data: Path, model: Path, adapter: Path | None) -> list[str | Path]:
    """The verb on a few rows."""
    more: dict[str, list[str | Path]] = {
        "featurize": ["--data", data, "--kind", "ntk", "--dim", "64", *(["--adapter", adapter] if adapter else [])],
        "finetune": ["--train", data, "--epochs", "1", *(["--init-adapter", adapter] if adapter else [])],
        "eval": ["--task", data, "--run", adapter or "base", "--scorer", "loss"],
    }
    if verb == "exact":
        return ["score", store, "--pool", "d", "--domain", "d", "--feature", "ntk", "--method", "exact", "--name", "x"]
    return [verb, store, "--name", "d", "--model", model, *more[verb]]


def exchange_while(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, exchange: Callable[[], object]) -> None:
    """Exchange a file just before a function of a library begins to read it."""
    real = getattr(place, name)

    def exchanged(*arguments: Any, **settings: Any) -> Any:
        exchange()
        return real(*arguments, **settings)

    monkeypatch.setattr(place, name, exchanged)


def copy_over(source: Path, target: Path) -> None:
    """Another file at the path, by a rename as a download does it."""
    shutil.copy(source, target.with_name("new"))
    os.replace(target.with_name("new"), target)


@pytest.mark.parametrize("verb", VERBS)
def test_weights(
    cli: Cli, tmp_path: Path, model: Path, other_model_dir: Path, write_jsonl: Writer, verb: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data = write_jsonl("d.jsonl", prompt_rows(3))
    if verb == "exact":
        assert cli(*command("featurize", tmp_path / "s", data, model, None)).code == 0
    exchange_while(
        monkeypatch,
        transformers.AutoModelForCausalLM,
        "from_pretrained",
        lambda: copy_over(other_model_dir / "model.safetensors", model / "model.safetensors"),
    )
    ran = cli(*command(verb, tmp_path / "s", data, model, None))
    assert ran.code == 1, ran.err
    assert f"{model / 'model.safetensors'} was changed while it was read" in ran.error_line
    assert "Run the same command again" in ran.error_line
    kinds = {"featurize": "features", "finetune": "runs", "eval": "evals", "exact": "scores"}
    assert all(
        not artefact.rows_done()
        for artefact in open_store(tmp_path / "s").artefacts()
        if artefact.name.startswith(kinds[verb])
    )


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "added_tokens.json"]
)
def test_other_files_of_the_model(
    cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was not there before."""

    def exchange() -> None:
        old = json.loads((model / name).read_text()) if (model / name).exists() else {}
        (model / name).write_text(json.dumps(old, indent=7))

    exchange_while(monkeypatch, transformers.AutoTokenizer, "from_pretrained", exchange)
    ran = cli(*command("featurize", tmp_path / "s", write_jsonl("d.jsonl", prompt_rows(3)), model, None))
    assert ran.code == 1, ran.err
    assert f"{name} was changed while it was read" in ran.error_line


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_adapters(
    cli: Cli, tmp_path: Path, model: Path, adapter: Path, write_jsonl: Writer, verb: str, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import peft

    data = write_jsonl("d.jsonl", prompt_rows(3))
    if verb == "exact":
        assert cli(*command("featurize", tmp_path / "s", data, model, adapter)).code == 0
    shutil.copy(adapter / name, tmp_path / "copy")
    exchange_while(monkeypatch, peft.PeftModel, "from_pretrained", lambda: copy_over(tmp_path / "copy", adapter / name))
    ran = cli(*command(verb, tmp_path / "s", data, model, adapter))
    assert ran.code == 1, ran.err
    assert f"{adapter / name} was changed while it was read" in ran.error_line


@pytest.mark.parametrize("verb", VERBS)
def test_data(
    cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the digest of the rows and their last reading: as many rows, but others."""
    from ntkcli.steps.evaluation import items
    from ntkcli.steps.shared import datasets, row_sets

    data = write_jsonl("d.jsonl", prompt_rows(3))
    if verb == "exact":
        assert cli(*command("featurize", tmp_path / "s", data, model, None)).code == 0
        exchange_while(
            monkeypatch,
            transformers.AutoModelForCausalLM,
            "from_pretrained",
            lambda: write_rows(data, prompt_rows(3, seed=9)),
        )
    else:
        place: Any = {"eval": items, "finetune": row_sets}.get(verb, datasets)
        real = place.scan

        def scanned(*arguments: Any, **settings: Any) -> Any:
            found = real(*arguments, **settings)
            write_rows(data, prompt_rows(3, seed=9))
            return found

        monkeypatch.setattr(place, "scan", scanned)
    ran = cli(*command(verb, tmp_path / "s", data, model, None))
    assert ran.code == (12 if verb == "exact" and "holds other rows" in ran.err else 1), ran.err
    assert "was changed while it was read" in ran.error_line or "holds other rows" in ran.error_line


def test_data_between_two_parts(
    cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were read before the exchange may be kept; not one that was read after it."""
    from ntkcli.steps.shared import row_sets

    monkeypatch.setattr(row_sets, "_CHECKED_ROWS", 1)
    data = write_jsonl("d.jsonl", prompt_rows(300))
    settings = ["--name", "d", "--kind", "embed", "--model", model, "--part-rows", "2"]
    whole = tmp_path / "whole"
    assert cli("featurize", whole, "--data", data, *settings).code == 0
    from ntkcli.engine.features.extract import Extractor

    real, calls = Extractor.begin, []

    def begin(self: Extractor, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            with data.open("r+b") as file:  # in place, under the reader's hands
                file.write(data.read_bytes().replace(b"licence", b"LICENCE"))
        return real(self, *arguments, **named)

    monkeypatch.setattr(Extractor, "begin", begin)
    ran = cli("featurize", tmp_path / "s", "--data", data, *settings)
    assert ran.code == 1
    assert f"{data} was changed while it was read" in ran.error_line
    made, good = (open_store(path).get("features/d/embed") for path in (tmp_path / "s", whole))
    done = made.done().nonzero()[0].tolist()
    assert done
    for part in done:
        bounds = made.part_bounds(part)
        assert (made.read("embedding", *bounds) == good.read("embedding", *bounds)).all()


def test_weights_that_are_overwritten_later(model: Path) -> None:
    """transformers maps the file: without a copy of our own, what is written to it later would be computed with."""
    loaded = load_model(resolve_model(str(model)), dtype="float32", device="cpu")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    path = model / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(b"\x01" * (size - size // 4))
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


def test_exact_digests_find_what_size_and_time_hide(
    cli: Cli, tmp_path: Path, model: Path, other_model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model / "model.safetensors"

    def exchange() -> None:
        stat = path.stat()
        with path.open("r+b") as file:
            file.write((other_model_dir / "model.safetensors").read_bytes())
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    exchange_while(monkeypatch, transformers.AutoModelForCausalLM, "from_pretrained", exchange)
    data = write_jsonl("d.jsonl", prompt_rows(3))
    ran = cli("--exact-digests", *command("featurize", tmp_path / "s", data, model, None))
    assert ran.code == 1
    assert f"{path} was changed while it was read" in ran.error_line

"""Lengths in tokens: counted once, exact, before weights are loaded; used by --dry-run, other kinds, and select."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from ntkcli.data import Encoder
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows

ROWS = prompt_rows(30, seed=5)


def on(store: Path, data: Path, model: Path, kind: str = "embed") -> list[Any]:
    return [
        "featurize",
        store,
        "--data",
        data,
        "--name",
        "d",
        "--kind",
        kind,
        "--model",
        model,
        "--dim",
        "64",
        "--json",
    ]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The maximum length of every row that was tokenised: counting has none that could be reached."""
    calls: list[int] = []
    finish = Encoder.finish

    def finished(self: Encoder, *given: Any) -> Any:
        calls.append(self.max_length)
        return finish(self, *given)

    monkeypatch.setattr(Encoder, "finish", finished)
    return calls


def test_rows_are_tokenised_once(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, encoded: list[int]
) -> None:
    store, data = tmp_path / "s", write_jsonl("d.jsonl", ROWS)
    assert cli(*on(store, data, model_dir)).code == 0
    assert len(encoded) == 30 == sum(length > 10**9 for length in encoded)
    assert cli(*on(store, data, model_dir, "ntk")).code == 0
    train = ("finetune", store, "--train", "d", "--name", "r", "--max-steps", "1", "--model", model_dir)
    assert cli(*train).code == 0
    assert len(encoded) == 30
    arrays = zarr.open_group(store / "arrays.zarr", mode="r")
    (name,) = arrays["tokens/d"].group_keys()
    assert (arrays[f"tokens/d/{name}/length"][:] == arrays["features/d/embed/tokens"][:]).all()


def test_a_dry_run_is_exact_and_cheap(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntkcli.steps.shared import cost

    monkeypatch.setattr(cost, "SAMPLE_ROWS", 5)
    store, data = tmp_path / "s", write_jsonl("d.jsonl", ROWS)
    dry = [*on(store, data, model_dir, "ntk"), "--dry-run", "--device", "cpu", "--max-length", "60"]
    before = json.loads(cli(*dry).out)
    assert (before["sampled"], before["rows"]) == (5, 30)
    assert cli(*on(store, data, model_dir)).code == 0
    arrays = zarr.open_group(store / "arrays.zarr", mode="r")
    lengths = arrays["features/d/embed/tokens"][:]
    encoded.clear()
    after = json.loads(cli(*dry).out)
    assert encoded == []
    assert after["sampled"] == 30
    assert after["tokens"] == np.minimum(lengths, 60).sum()
    assert after["truncated"] == (lengths > 60).sum() > 0
    assert "30 rows, about" not in cli(*[word for word in dry if word != "--json"]).out


def test_rows_that_cannot_be_encoded_are_told_together_before_the_model_is_loaded(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntkcli.engine.models import loading

    forged = {"prompt": "a<|im_end|>b", "completion": "c"}
    data = write_jsonl("d.jsonl", [*ROWS[:3], *[forged] * 25, *ROWS[3:]])
    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
        ran = cli(*on(tmp_path / "s", data, model_dir))
    assert ran.code == 1
    assert (
        "d.jsonl line 4: the user's text holds '<|im_end|>', a special token of the model, and 24 more"
        in ran.error_line
    )
    lines = ran.err.splitlines()
    assert sum("d.jsonl line" in line and not line.startswith("error:") for line in lines) == 20
    assert "  and 5 more bad rows" in lines
    ran = cli(*on(tmp_path / "s", data, model_dir), "--on-error", "skip")
    assert ran.code == 3, ran.err
    assert (json.loads(ran.out)["rows"], json.loads(ran.out)["skipped"]) == (55, 25)
    assert "left out: " in ran.err


def test_finetune_tells_them_together_too(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    forged = {"prompt": "a<|im_end|>b", "completion": "c"}
    data = write_jsonl("d.jsonl", [forged, *ROWS[:4], forged])
    on = ("finetune", tmp_path / "s", "--train", data, "--name", "r", "--epochs", "1", "--model", model_dir)
    ran = cli(*on)
    assert ran.code == 1
    assert "d.jsonl line 1: the user's text holds '<|im_end|>'" in ran.error_line
    assert f"  {data} line 6: the user's text holds" in ran.err
    ran = cli(*on, "--on-error", "skip", "--json")
    assert ran.code == 3, ran.err
    assert (json.loads(ran.out)["rows"], json.loads(ran.out)["skipped"]) == (4, 2)


def test_eval_tells_them_together_too(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    good = {"prompt": "a", "choices": ["b", "c"], "answer": 0}
    forged = {**good, "prompt": "a<|im_end|>b"}
    data = write_jsonl("d.jsonl", [forged, good, forged])
    on = ("eval", tmp_path / "s", "--task", data, "--name", "e", "--run", "base", "--model", model_dir)
    ran = cli(*on)
    assert ran.code == 1
    assert "d.jsonl line 1: the user's text holds '<|im_end|>'" in ran.error_line
    assert f"  {data} line 3: the user's text holds" in ran.err
    assert cli(*on, "--on-error", "skip").code == 3


def test_select_knows_lengths_of_rows_without_features(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    """Features of a selection, counts of all rows: lengths of the others are known too."""
    store, data = tmp_path / "s", write_jsonl("d.jsonl", ROWS)
    assert cli(*on(store, data, model_dir)).code == 0
    lengths = zarr.open_group(store / "arrays.zarr", mode="r")["features/d/embed/tokens"][:]
    assert cli("rm", store, "features/d/embed").code == 0
    assert cli("score", store, "--pool", "d", "--domain", "d", "--method", "random", "--name", "r").code == 0
    longest = int(np.sort(lengths)[14])
    ran = cli("select", store, "--score", "r", "-n", "10", "--name", "p", "--max-tokens", str(longest), "--json")
    assert ran.code == 0, ran.err
    chosen = zarr.open_group(store / "arrays.zarr", mode="r")["selections/p/row"][:]
    assert lengths[chosen].max() <= longest


def test_counts_go_with_their_data_set(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    store, data = tmp_path / "s", write_jsonl("d.jsonl", ROWS)
    assert cli(*on(store, data, model_dir)).code == 0
    assert cli("info", store, "--verify").code == 0
    ran = cli("rm", store, "features/d/embed", "datasets/d")
    assert ran.code == 0, ran.err
    assert json.loads(cli("info", store, "--json").out)["artefacts"] == []


def test_shards_count_together(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntkcli.identity import resolve_model
    from ntkcli.steps.shared import token_counts
    from ntkcli.steps.shared.datasets import register_data
    from ntkcli.steps.shared.stores import open_store

    monkeypatch.setattr(token_counts, "PART_ROWS", 4)
    stored = open_store(tmp_path / "s", create=True)
    dataset, file = register_data(stored, name="d", data=write_jsonl("d.jsonl", ROWS))
    model = resolve_model(str(model_dir))
    written: list[int] = []
    real = token_counts._fill
    monkeypatch.setattr(
        token_counts,
        "_fill",
        lambda artefact, pending, *rest: written.append(pending) or real(artefact, pending, *rest),
    )
    found = token_counts.count_tokens(stored, dataset, file, model, shard=(1, 3))
    assert written == [[1, 4, 7], [0, 2, 3, 5, 6]]
    assert found.complete
    alone = token_counts.count(file.rows(), model, thinking=None)
    assert token_counts.counts_of(found, None).length.tolist() == alone.length.tolist()


def test_features_are_the_same_with_and_without_kept_tokens(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are cut, or refused, among them."""
    from ntkcli.steps.features import featurize
    from ntkcli.steps.shared.kept_tokens import KeptTokens

    forged = {"prompt": "a<|im_end|>b", "completion": "c"}
    data = write_jsonl("d.jsonl", [*ROWS[:3], forged, *ROWS[3:]])
    how = ("--max-length", "60", "--on-error", "skip")
    kept = json.loads(cli(*on(tmp_path / "kept", data, model_dir, "ntk"), *how).out)
    monkeypatch.setattr(featurize, "kept_tokens", lambda *given: KeptTokens(None, given[-1]))
    bare = json.loads(cli(*on(tmp_path / "bare", data, model_dir, "ntk"), *how).out)
    assert kept["digest"] == bare["digest"]
    assert kept["truncated"] > 0 < kept["skipped"]


def test_counts_of_before_tokens_were_kept_go_on_counting(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, encoded: list[int]
) -> None:
    import store as stores
    from ntkcli.identity import resolve_model
    from ntkcli.steps.shared import token_counts
    from ntkcli.steps.shared.datasets import register_data
    from ntkcli.steps.shared.stores import open_store

    data = write_jsonl("d.jsonl", ROWS)
    stored = open_store(tmp_path / "s", create=True)
    dataset, file = register_data(stored, name="d", data=data)
    model = resolve_model(str(model_dir))
    spec = {
        "data": dataset.spec["digest"],
        "tokenizer": model.spec["tokenizer"],
        "encoder": {"version": token_counts.ENCODER_VERSION},
    }
    old = stored.create(
        f"tokens/d/{stores.fingerprint(spec)[:16]}",
        kind=stores.Kind.TOKENS,
        spec=spec,
        parents={dataset.name: dataset.fingerprint},
        n=30,
        part_rows=1 << 14,
        arrays={"length": stores.ArraySpec("int32"), "status": stores.ArraySpec("uint8")},
    )
    counts = token_counts.count(file.rows(), model, thinking=None)
    old.write_part(0, {"length": counts.length, "status": counts.status})
    assert token_counts.count_tokens(stored, dataset, file, model).name == old.name
    encoded.clear()
    assert cli(*on(tmp_path / "s", data, model_dir)).code == 0
    assert encoded == [1024] * 30

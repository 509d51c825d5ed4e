"""Values that are not finite, in every command: their rows are named, or left out where that is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from ntkcli.steps.shared.stores import open_store
from tests.broken import plain_model, poisoned_model
from tests.commands.conftest import Cli, Ran
from tests.conftest import Writer, choice_rows, prompt_rows
from tests.scoring.kit import add_data, add_features

BAD = (3, 7)


def poison(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "prompt": f"z {row['prompt']}"} if i in BAD else row for i, row in enumerate(rows)]


def clean(rows: list[Any]) -> list[Any]:
    return [row for i, row in enumerate(rows) if i not in BAD]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return poisoned_model(tmp_path_factory.mktemp("poisoned"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_model(tmp_path_factory.mktemp("plain"))


def short(ran: Ran, folder: Path) -> str:
    """The error without the folder of the test."""
    return ran.error_line.replace(f"{folder}/", "")


NAMES = "d.jsonl line 4 (id 0-3), "
SECOND = "d.jsonl line 8 (id 0-7)"


@pytest.mark.parametrize("kind", ["ntk", "loss", "embed"])
def test_featurize(kind: str, cli: Cli, tmp_path: Path, poisoned: Path, plain: Path, write_jsonl: Writer) -> None:
    rows = poison(prompt_rows(12))
    data, others = write_jsonl("d.jsonl", rows), write_jsonl("e.jsonl", clean(rows))
    path, options = tmp_path / "s", ["--kind", kind, *(["--dim", "64"] if kind != "embed" else [])]
    ran = cli("featurize", path, "--data", data, "--name", "d", "--model", poisoned, *options)
    assert ran.code == 1
    assert f"The features of {NAMES}{SECOND} are not finite" in short(ran, tmp_path)
    assert "--on-error skip" in short(ran, tmp_path)
    for _ in range(2):  # the second time it is finished already
        skip = ["--on-error", "skip", "--batch-tokens", "200"]
        ran = cli("featurize", path, "--data", data, "--name", "d", "--model", poisoned, *options, *skip, "--json")
        assert ran.code == 3, ran.err
        assert json.loads(ran.out)["skipped"] == 2
    assert cli("featurize", path, "--data", others, "--name", "e", "--model", plain, *options).code == 0
    found, expected = (open_store(path).get(f"features/{name}/{kind}") for name in "de")
    good = [i for i in range(12) if i not in BAD]
    assert (found.read("status")[list(BAD)] == store.RowStatus.NON_FINITE).all()
    assert (found.read("status")[good] == store.RowStatus.OK).all()
    assert (np.isnan(found.read("norm")) == np.isin(np.arange(12), BAD)).all()
    vectors = "embedding" if kind == "embed" else "sketch"
    assert (found.read(vectors)[list(BAD)] == 0).all()
    np.testing.assert_allclose(found.read(vectors)[good], expected.read(vectors), atol=2e-3)  # float16
    np.testing.assert_allclose(found.read("norm")[good], expected.read("norm"), rtol=1e-4)
    assert cli("info", path, "--verify").code == 0


def test_exact(cli: Cli, tmp_path: Path, poisoned: Path, plain: Path, write_jsonl: Writer) -> None:
    """Bad rows on both sides: the scores are those of pool and domain without them."""
    sides = {"d": poison(prompt_rows(10, seed=0)), "p": poison(prompt_rows(20, seed=1))}
    path = tmp_path / "s"
    for model, keep in ((poisoned, list), (plain, clean)):
        for side, rows in sides.items():
            name = side if keep is list else f"{side}0"
            data = write_jsonl(f"{name}.jsonl", keep(rows))
            options = ["--model", model, "--kind", "ntk", "--dim", "64", "--on-error", "skip"]
            assert cli("featurize", path, "--data", data, "--name", name, *options).code == (3 if keep is list else 0)
    assert cli("score", path, "--pool", "p0", "--domain", "d0", "--method", "exact", "--name", "y").code == 0
    exact = ["score", path, "--pool", "p", "--domain", "d", "--method", "exact", "--name", "x"]
    ran = cli(*exact)
    assert ran.code == 1
    assert f"The gradients of {NAMES}{SECOND} are not finite" in short(ran, tmp_path)
    for _ in range(2):
        ran = cli(*exact, "--on-error", "skip", "--json")
        assert ran.code == 3, ran.err
        assert json.loads(ran.out)["skipped"] == 4
    found, expected = (open_store(path).get(f"scores/{name}") for name in "xy")
    good = [i for i in range(20) if i not in BAD]
    assert (found.read("status")[list(BAD)] == store.RowStatus.NON_FINITE).all()
    assert (np.isnan(found.read("score")) == np.isin(np.arange(20), BAD)).all()
    np.testing.assert_allclose(found.read("score")[good], expected.read("score"), rtol=1e-3)


def test_exact_without_any_finite_domain_row(cli: Cli, tmp_path: Path, poisoned: Path, write_jsonl: Writer) -> None:
    rows = prompt_rows(10)
    sides = {"p": rows, "d": [{**row, "prompt": "z"} for row in rows[:3]]}
    for name, some in sides.items():
        options = ["--model", poisoned, "--kind", "ntk", "--dim", "64", "--on-error", "skip"]
        cli("featurize", tmp_path / "s", "--data", write_jsonl(f"{name}.jsonl", some), "--name", name, *options)
    scored = ("score", tmp_path / "s", "--pool", "p", "--domain", "d", "--method", "exact", "--name", "x")
    ran = cli(*scored, "--on-error", "skip")
    assert ran.code == 1
    assert "No row of datasets/d has a gradient to compare with: 3 are not finite." in short(ran, tmp_path)


def test_scores_of_features_that_float32_cannot_hold(cli: Cli, tmp_path: Path) -> None:
    path, draw = tmp_path / "s", np.random.default_rng(0)
    add_data(path, "pool", prompt_rows(12))
    add_data(path, "domain", prompt_rows(5, seed=2))
    pool = draw.normal(size=(12, 8)) + 1
    pool[list(BAD)] *= 1e25
    add_features(path, "pool", pool)
    add_features(path, "domain", 1e20 * (draw.normal(size=(5, 8)) + 1))
    base = ["score", path, "--pool", "pool", "--domain", "domain", "--feature", "embed"]
    mean = [*base, "--method", "mean", "--name", "x"]
    ran = cli(*mean)
    assert ran.code == 1
    assert "The scores of pool.jsonl line 4 (id 0-3), pool.jsonl line 8 (id 0-7) are not finite" in short(ran, tmp_path)
    assert "--method cosine" in short(ran, tmp_path)
    for _ in range(2):
        ran = cli(*mean, "--on-error", "skip", "--json")
        assert ran.code == 3, ran.err
        assert (json.loads(ran.out)["skipped"], json.loads(ran.out)["scored"]) == (2, 10)
    values = open_store(path).get("scores/x").read("score")
    assert (np.isfinite(values) == ~np.isin(np.arange(12), BAD)).all()
    assert cli(*base, "--method", "cosine", "--name", "y").code == 0


@pytest.mark.parametrize("scorer", ["choices", "generate", "loss"])
@pytest.mark.parametrize("budget", ["1", "5000"])
def test_eval(
    scorer: str, budget: str, cli: Cli, tmp_path: Path, poisoned: Path, plain: Path, write_jsonl: Writer
) -> None:
    """Never a prediction; the other items are scored as by a model without the poison."""
    rows = poison(choice_rows(12) if scorer == "choices" else prompt_rows(12))
    data = write_jsonl("d.jsonl", rows)
    options = ["--run", "base", "--task", data, "--scorer", scorer, "--name", "e", "--max-new-tokens", "3"]
    options += ["--batch-tokens", budget]
    path, export = tmp_path / "s", tmp_path / "items.jsonl"
    ran = cli("eval", path, "--model", poisoned, *options)
    assert ran.code == 1
    name = "c0" if scorer == "choices" else "0"
    names = f"d.jsonl line 4 (id {name}-3), d.jsonl line 8 (id {name}-7)"
    assert f"The values under base of {names} are not finite" in short(ran, tmp_path)
    for _ in range(2):
        ran = cli("eval", path, "--model", poisoned, *options, "--on-error", "skip", "--json", "--export", export)
        assert ran.code == 3, ran.err
        found = json.loads(ran.out)
        assert (found["items"], found["skipped"]) == (10, 2)
    records = [json.loads(line) for line in export.read_text().splitlines()]
    assert [i for i, record in enumerate(records) if record["status"] == "non_finite"] == list(BAD)
    assert not any("prediction" in records[i] or "nll" in records[i] or "text" in records[i] for i in BAD)
    arrays = open_store(path).get("evals/e/base")
    assert (arrays.read("prediction")[list(BAD)] == -1).all()
    assert (arrays.read("correct")[list(BAD)] == 0).all()
    assert cli("eval", tmp_path / "t", "--model", plain, *options).code == 0
    plain_ones = open_store(tmp_path / "t").get("evals/e/base")
    good = [i for i in range(12) if i not in BAD]
    for column in {"choices": ("loglik", "prediction"), "generate": ("text", "f1"), "loss": ("nll",)}[scorer]:
        values, expected = arrays.read(column)[good], plain_ones.read(column)[good]
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, expected, atol=1e-4)
        else:
            assert (values == expected).all()


def test_runs_are_compared_on_items_that_are_finite_under_all(
    cli: Cli, tmp_path: Path, plain: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run has an item of its own that is not finite; a run without any finite item is refused by name."""
    from ntkcli.engine.evaluation.evaluator import Evaluator
    from tests.commands.test_eval import make_adapter

    runs = [make_adapter(tmp_path / name, plain, i) for i, name in enumerate(("a", "b"))]
    real, using = Evaluator.logliks, ["base"]

    def use(self: Any, adapter: Any, model: Any) -> None:
        switch(self, adapter, model)
        using[0] = adapter.folder.name if adapter else "base"

    def logliks(self: Any, items: Any) -> Any:
        found = real(self, items)
        for i in {"base": [2], "a": [5], "b": range(len(found))}[using[0]]:
            found[i][:] = np.nan
        return found

    switch = Evaluator.use
    monkeypatch.setattr(Evaluator, "use", use)
    monkeypatch.setattr(Evaluator, "logliks", logliks)
    data = write_jsonl("t.jsonl", choice_rows(12))
    path = tmp_path / "s"
    base = ["--model", plain, "--task", data, "--on-error", "skip", "--json", "--name", "e"]
    ran = cli("eval", path, *base, "--run", "base", "--run", runs[0])
    assert ran.code == 3, ran.err
    found = json.loads(ran.out)
    assert (found["items"], found["skipped"]) == (10, 2)
    correct = {run: open_store(path).get(f"evals/e/{run}").read("correct") for run in ("base", "a")}
    kept = [i for i in range(12) if i not in (2, 5)]
    shown = {score["arm"]: score["value"] for score in found["scores"]}
    assert shown == {run: pytest.approx(values[kept].mean()) for run, values in correct.items()}
    ran = cli("eval", path, *base, "--run", "base", "--run", runs[1])
    assert ran.code == 1
    assert "No item of t can be compared: under b the values of 12 of 12 are not finite" in short(ran, tmp_path)


def test_rows_held_out_are_named(cli: Cli, tmp_path: Path, poisoned: Path, write_jsonl: Writer) -> None:
    """Half of the rows are poisoned, so that some are held out; none of those trained on is."""
    from ntkcli.engine.training import trainer

    rows = prompt_rows(12)
    data = write_jsonl("d.jsonl", rows)
    options = ["--model", poisoned, "--train", data, "--name", "r", "--epochs", "1", "--hold-out", "0.25"]
    real, held = trainer.make_trainer, []

    def spy(model: Any, arguments: Any, given: Any, *more: Any, **how: Any) -> Any:
        held.extend(given.held_out_names)
        return real(model, arguments, given, *more, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ntkcli.engine.training.train.make_trainer", spy)
        assert cli("finetune", tmp_path / "s", *options).code == 0
    number = int(held[0].rpartition("-")[2].removesuffix(")"))
    rows[number]["prompt"] = "z" + rows[number]["prompt"][1:]
    write_jsonl("d.jsonl", rows)
    ran = cli("finetune", tmp_path / "t", *options)
    assert ran.code == 1
    assert f"only 1 of its 3 rows make it so: d.jsonl line {number + 1} (id 0-{number})" in short(ran, tmp_path)
    assert "The held-out loss after step" in short(ran, tmp_path)


def test_padding_is_not_to_blame(cli: Cli, tmp_path: Path, plain: Path, write_jsonl: Writer) -> None:
    """The padding's own embedding is not finite: rows are left out for what they say, never for their batch."""
    broken = poisoned_model(tmp_path / "padding", "<|endoftext|>")
    rows, items = write_jsonl("d.jsonl", prompt_rows(9)), write_jsonl("t.jsonl", choice_rows(9))
    for path, model in ((tmp_path / "s", broken), (tmp_path / "t", plain)):
        for kind in ("loss", "embed"):
            options = ["--kind", kind, "--batch-tokens", "4000", *(["--dim", "64"] if kind != "embed" else [])]
            assert cli("featurize", path, "--data", rows, "--name", "d", "--model", model, *options).code == 0
        exact = ["--method", "exact", "--feature", "loss", "--name", "x", "--batch-tokens", "4000"]
        assert cli("score", path, "--pool", "d", "--domain", "d", *exact).code == 0
        for scorer in ("choices", "generate", "loss"):
            options = ["--run", "base", "--task", items, "--scorer", scorer, "--max-new-tokens", "3"]
            ran = cli("eval", path, "--model", model, *options, "--name", scorer, "--batch-tokens", "4000")
            assert ran.code == 0, ran.err
    found, expected = (open_store(tmp_path / name) for name in "st")
    for artefact, column in (
        ("features/d/loss", "norm"),
        ("features/d/embed", "norm"),
        ("scores/x", "score"),
        ("evals/choices/base", "loglik"),
        ("evals/loss/base", "nll"),
    ):
        values = (stored.get(artefact).read(column) for stored in (found, expected))
        np.testing.assert_allclose(*values, rtol=1e-3)
    texts = [stored.get("evals/generate/base").read("text").tolist() for stored in (found, expected)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_adapter_is_to_blame_not_the_rows(
    value: float, cli: Cli, tmp_path: Path, plain: Path, write_jsonl: Writer
) -> None:
    """By every command that attaches it; --on-error skip leaves no row out for it."""
    from safetensors.numpy import load_file, save_file

    rows, on = write_jsonl("d.jsonl", prompt_rows(4)), ["--model", plain, "--on-error", "skip"]
    assert cli("finetune", tmp_path / "s", *on, "--train", rows, "--name", "r", "--epochs", "1").code == 0
    file = tmp_path / "bad" / "adapter_model.safetensors"
    shutil.copytree(tmp_path / "s" / "adapters" / "r", file.parent)
    weights = load_file(file)
    name = sorted(weights)[-1]
    weights[name][0, :2] = value
    save_file(weights, file, metadata={"format": "pt"})
    data = ["--data", rows, "--name", "d", "--adapter", file.parent]
    for command in (
        ["featurize", *data, "--kind", "loss"],
        ["featurize", *data, "--kind", "embed"],
        ["eval", "--run", file.parent, "--task", rows, "--scorer", "loss", "--name", "e"],
        ["finetune", "--train", rows, "--init-adapter", file.parent, "--name", "f"],
    ):
        ran = cli(command[0], tmp_path / "t", *command[1:], *on)
        assert ran.code == 12, ran.err
        assert f"bad has weights that are not finite: 2 of {weights[name].size} in {name}" in short(ran, tmp_path)
        assert "id 0-" not in ran.error_line

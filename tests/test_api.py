"""`ntkcli.api`: the options and defaults of the command line, its results as objects, arrays as they are stored."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from ntkcli import api
from ntkcli.app import run
from ntkcli.engine.gradients.registry import PROBES
from ntkcli.errors import UsageError
from ntkcli.selection.registry import SELECTORS
from ntkcli.steps.diagnosis.request import CHECKS
from ntkcli.steps.pipelines.arms_plan import ARMS
from ntkcli.steps.scores.registry import SCORES
from tests.app_commands import COMMANDS
from tests.conftest import Writer, choice_rows, prompt_rows, write_rows
from tests.scoring.kit import make_store

ROOT = Path(__file__).resolve().parent.parent
OF_A_PROGRAM = {"json", "quiet", "verbose", "dry_run", "help", "shard_model"}
"""What only a program needs, or (`shard_model`) several processes."""
OTHER = {
    "score": {"combine", "compare", "n", "plot", "force"},  # functions of their own: `combine`, `scores`
    "explain": {"tokens", "device"},  # `explain_tokens`
    "finetune": {"seeds", "lr_find", "lr_rates", "lr_steps"},  # one call per seed; `find_learning_rate`
    "eval": {"per_class"},  # what is shown
    "arms": {"recipe"},  # what is written instead of a result
}
"""Options that a function of the API does not have."""
NUMBERS = {"seeds", "sizes"}
FUNCTIONS = {
    **{name: getattr(api, name) for name in ("featurize", "score", "select", "explain", "finetune", "arms")},
    **{name: getattr(api, name) for name in ("validate", "split", "query", "diagnose", "merge")},
    "eval": api.evaluate,
    **{name: getattr(api, name) for name in ("push", "pull")},
}


def name_of(option: Any) -> str:
    """The option's name as an argument: its first flag, or an argument's own name."""
    if option.param_type_name == "argument":
        return str(option.name)
    flag = next((each for each in option.opts if each.startswith("--")), option.opts[0])
    return str(flag.lstrip("-").partition("/")[0].replace("-", "_"))


def plain(value: Any, name: str) -> Any:
    """A default as the command line writes it."""
    if isinstance(value, Enum):
        return value.value
    if name in NUMBERS and isinstance(value, tuple):
        return ",".join(map(str, value))
    return None if value in ([], ()) else value


@pytest.mark.parametrize("command", FUNCTIONS)
def test_options_and_defaults_are_those_of_the_command(command: str) -> None:
    own = inspect.signature(FUNCTIONS[command]).parameters
    options = {name_of(each): each for each in COMMANDS[command].params}
    wanted = set(options) - OF_A_PROGRAM - OTHER.get(command, set())
    assert set(own) - {"progress", "quiet"} == wanted
    for name in wanted:
        default = options[name].default
        found = own[name].default
        if found is inspect.Parameter.empty:
            assert options[name].required or default is None, f"{command}: {name} has a default"
        else:
            assert plain(found, name) == plain(default, name), f"{command}: {name}"


def test_names_are_those_of_the_tables() -> None:
    for names, door in ((api.ScoreName, SCORES), (api.SelectorName, SELECTORS), (api.ProbeName, PROBES)):
        assert set(get_args(get_args(names)[0])) == set(door.builtin)
    assert set(get_args(api.ArmName)) == set(ARMS)
    assert set(get_args(api.CheckName)) == set(CHECKS)


@pytest.mark.parametrize(
    ("own", "of", "without", "more"),
    [
        (api.scores, api.score, {"name", "method"}, {"methods"}),
        (api.explain_tokens, api.explain, {"bottom"}, {"device", "progress"}),
        (
            api.find_learning_rate,
            api.finetune,
            {"lr", "seed", "then", "hold_out_of", "patience", "checkpoint_steps", "keep_optimizer"}
            | {"keep_checkpoints", "report_to", "push_to_hub", "public"},
            {"lr_rates", "lr_steps", "seeds"},
        ),
    ],
)
def test_functions_for_options(own: Any, of: Any, without: set[str], more: set[str]) -> None:
    """A function that stands for an option takes what its command takes with that option."""
    found, like = inspect.signature(own).parameters, inspect.signature(of).parameters
    assert set(found) == set(like) - without | more
    assert all(found[name].default == like[name].default for name in set(found) - more)


def test_reference_is_current() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools/api_reference.py")], check=True, capture_output=True, text=True
    )
    assert made.stdout == (ROOT / "docs/api.md").read_text(encoding="utf-8"), "run `make docs`"


def test_every_export_is_typed() -> None:
    """No argument of a function is without a type; those of choices are enums or literals."""
    assert sorted(api.__all__) == sorted(set(api.__all__))
    assert all(hasattr(api, name) for name in api.__all__)
    for command, function in FUNCTIONS.items():
        options = {name_of(each): each for each in COMMANDS[command].params}
        for name, each in inspect.signature(function).parameters.items():
            assert each.annotation is not each.empty
            option = options.get(name)
            if option is not None and option.param_type_name == "option" and option.type_descriptor.is_choice:
                assert "str" not in str(each.annotation).replace("StrEnum", "").split(" "), f"{command}: {name}"


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    capsys.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_results_are_those_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, pool, domain = make_store(tmp_path)
    scored = api.score(path, pool="pool", domain="domain", method="max", feature="embed", name="near")
    again = json_of(
        capsys,
        "score",
        path,
        *["--pool", "pool", "--domain", "domain", "--method", "max", "--feature", "embed", "--name", "near"],
    )
    assert scored.to_dict() == again
    unit, to = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (pool, domain))
    expected = (unit @ to.T).max(axis=1)
    expected[5] = np.nan
    np.testing.assert_allclose(scored.values(), expected, atol=1e-6)

    opened = api.open_store(path)
    chosen = api.select(opened, score="near", n=7, name="picked")
    assert chosen.indices().tolist() == np.argsort(-np.nan_to_num(expected, nan=-9))[:7].tolist()
    assert chosen.scores().tolist() == scored.values()[chosen.indices()].tolist()
    assert chosen.row_ids() == [f"1-{row}" for row in chosen.indices()]
    made = json_of(capsys, "select", path, *["--score", "near", "-n", "7", "--name", "picked"])
    assert {**chosen.to_dict(), "removed": {}} == made
    why = api.explain(opened, selection="picked", row=chosen.row_ids()[0])
    assert why.rank == 1
    assert why.to_dict() == json_of(capsys, "explain", path, "picked", chosen.row_ids()[0])

    other = api.score(path, pool="pool", method="random", name="other")
    joined = api.combine(path, combine=["near", "other"], name="joined")
    assert joined.scored == scored.scored == other.scored - 1
    assert opened.names(api.ArtefactKind.SCORE) == ["scores/joined", "scores/near", "scores/other"]
    assert opened.spec("scores/near")["method"] == "max"
    assert opened.arrays("features/pool/embed")["embedding"] == pool.shape
    np.testing.assert_array_equal(opened.read("scores/near", "score"), scored.values())

    several: Any = {"pool": "pool", "domain": "domain", "feature": "embed", "centre": True}
    both = api.scores(path, methods={"by-mean": "mean", "by-cosine": "cosine"}, **several)
    assert [(each.artefact, each.method) for each in both] == [
        ("scores/by-mean", "mean"),
        ("scores/by-cosine", "cosine"),
    ]
    alone = api.score(path, name="alone", method="cosine", **several)
    np.testing.assert_array_equal(both[1].values(), alone.values())
    low = api.explain(opened, selection="picked", row=chosen.row_ids()[0], bottom=True)
    assert low.to_dict() == json_of(capsys, "explain", path, "picked", chosen.row_ids()[0], "--bottom")
    assert low.farthest is not None
    assert why.farthest is None
    left = api.select(path, score="near", n=7, name="others", exclude=["picked"])
    assert not set(left.row_ids()) & set(chosen.row_ids())
    with pytest.raises(UsageError, match="--format alpaca is given without"):
        api.select(path, score="near", n=7, name="third", format=api.Format.ALPACA)
    with pytest.raises(UsageError, match="--public"):
        api.select(path, score="near", n=7, name="third", public=True)
    checked = api.diagnose(path, check="length", score=["near"])
    assert checked.to_dict() == json_of(capsys, "diagnose", path, "length", "--score", "near")
    with pytest.raises(UsageError, match="--method nearest is not known"):
        api.score(path, pool="pool", domain="domain", method=api.PluginName("nearest"), name="x")


def test_a_split(tmp_path: Path, write_jsonl: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl("rows.jsonl", prompt_rows(20))
    found = api.split(str(data), test=0.25, out=tmp_path / "api")
    made = json_of(capsys, "split", data, "--test", "0.25", "--out", tmp_path / "api")
    assert {**found.to_dict(), "written": False} == made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What the examples read."""
    write_rows(tmp_path / "domain.jsonl", prompt_rows(6, seed=1))
    write_rows(tmp_path / "pool.jsonl", prompt_rows(20, seed=2, source="a"))
    write_rows(tmp_path / "test.jsonl", choice_rows(6))
    return tmp_path


def test_the_example_and_the_notebook_run(
    files: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("MODEL", str(model_dir))
    code = compile((ROOT / "examples/api.py").read_text(encoding="utf-8"), "api.py", "exec")
    space: dict[str, Any] = {"__name__": "example"}
    exec(code, space)  # noqa: S102  (our own file)
    space["main"]("made", str(model_dir), "domain.jsonl", "pool.jsonl", "test.jsonl")
    said = capsys.readouterr().out
    assert "features/pool/ntk: (20, 512)" in said
    assert "20 of 20 rows scored" in said
    assert api.open_store("made").names(api.ArtefactKind.RUN) == ["runs/mixed"]
    notebook = json.loads((ROOT / "examples/selection.ipynb").read_text(encoding="utf-8"))
    cells: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "outputs of a run are not committed"
            exec("".join(cell["source"]), cells)  # noqa: S102  (our own file)
    assert cells["features"]["pool"].vectors().shape == (20, 256)
    assert cells["chosen"].sources == {"a": 5}
    assert len(cells["why"].nearest) > 0


def test_what_a_model_gives_is_that_of_the_command(
    files: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    model = str(model_dir)
    how: dict[str, Any] = {"kind": api.Kind.NTK, "model": model, "probe": "centred", "dim": 64, "losses": True}
    features = {name: api.featurize("s", data=f"{name}.jsonl", name=name, **how) for name in ("pool", "domain")}
    opened = api.open_store("s")
    np.testing.assert_array_equal(features["pool"].losses(), opened.read("features/pool/ntk", "loss"))
    assert np.isfinite(features["pool"].losses()).all()
    plain, weighed = (
        api.score("s", pool="pool", domain="domain", method="mean", residual=residual, name=f"mean{residual:d}")
        for residual in (False, True)
    )
    residual = opened.read("features/pool/ntk", "residual")
    np.testing.assert_allclose(weighed.values(), plain.values() * residual, rtol=1e-5)

    chosen = api.select("s", score="mean0", n=4, name="picked")
    told = api.explain_tokens("s", selection="picked", row=chosen.row_ids()[0])
    assert told.to_dict() == json_of(capsys, "explain", "s", "picked", chosen.row_ids()[0], "--tokens")
    asked = api.query("s", pool="pool", prompt="Name it?", completion="yes", n=3)
    words = ["--prompt", "Name it?", "--completion", "yes", "-n", "3"]
    assert asked.to_dict() == json_of(capsys, "query", "s", "--pool", "pool", *words)

    training: dict[str, Any] = {"model": model, "train": ["domain.jsonl"], "epochs": 1, "rank": 2}
    found = api.find_learning_rate("s", name="rates", lr_rates=[1e-3, 1e-2], lr_steps=1, **training)
    words = ["--model", model, "--train", "domain.jsonl", "--epochs", "1", "--rank", "2"]
    tried = ["--name", "rates", "--lr-find", "--lr-rates", "1e-3,1e-2", "--lr-steps", "1"]
    assert found.to_dict() == json_of(capsys, "finetune", "s", *words, *tried)
    run_of = api.finetune("s", name="run", hold_out=0.3, hold_out_of="domain.jsonl", keep_checkpoints=True, **training)
    held = ["--hold-out", "0.3", "--hold-out-of", "domain.jsonl", "--keep-checkpoints"]
    assert run_of.to_dict() == json_of(capsys, "finetune", "s", *words, "--name", "run", *held)
    assert (Path(run_of.adapter) / "steps").is_dir()
    merged = api.merge("s", run="run", out="merged", dtype="bfloat16")
    words = ["--run", "run", "--out", "merged", "--dtype", "bfloat16"]
    assert merged.to_dict() == json_of(capsys, "merge", "s", *words)

    evaluated = api.evaluate("s", model=model, run=["base", "run"], task=["test.jsonl"], name="test", plot="test.svg")
    words = ["--model", model, "--run", "base", "--run", "run", "--task", "test.jsonl", "--name", "test"]
    assert evaluated.to_dict() == json_of(capsys, "eval", "s", *words)
    assert "<svg" in Path("test.svg").read_text(encoding="utf-8")
    Path("own.svg").write_text("a picture of the user's", encoding="utf-8")
    with pytest.raises(UsageError, match=r"--plot own\.svg"):
        api.evaluate("s", model=model, run=["base"], task=["test.jsonl"], name="other", plot="own.svg")


def test_arms_give_their_result(
    files: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    how: dict[str, Any] = {"domain": "domain.jsonl", "task": ["test.jsonl"], "epochs": 1, "rank": 2}
    found = api.arms("s", model=str(model_dir), arms=["base", "domain"], **how)
    assert capsys.readouterr().out == ""
    assert {each.arm for each in found.scores} == {"base", "domain"}
    words = f"--model {model_dir} --domain domain.jsonl --task test.jsonl --epochs 1 --rank 2 --arms base,domain"
    assert found.to_dict() == json_of(capsys, "arms", "s", *words.split())


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, ntkcli.api, ntkcli.plugins; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

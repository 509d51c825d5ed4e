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
import typer

from ntkcli import api
from ntkcli.app import app, run
from ntkcli.engine.gradients.registry import PROBES
from ntkcli.errors import UsageError
from ntkcli.selection.registry import SELECTORS
from ntkcli.steps.pipelines.arms_plan import ARMS
from ntkcli.steps.scores.registry import SCORES
from tests.conftest import Writer, choice_rows, prompt_rows, write_rows
from tests.scoring.kit import make_store

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OF_A_PROGRAM = {"json", "quiet", "verbose", "dry_run", "help"}
"""What only a program needs."""
OTHER = {
    "score": {"combine", "compare", "n"},  # `combine` is a function of its own
    "finetune": {"seeds"},  # one call per seed
    "eval": {"per_class"},  # what is shown
    "arms": {"recipe"},  # what is written instead of a result
}
"""Options that a function of the API does not have."""
NUMBERS = {"seeds", "sizes"}
FUNCTIONS = {
    **{name: getattr(api, name) for name in ("featurize", "score", "select", "explain", "finetune", "arms")},
    **{name: getattr(api, name) for name in ("validate", "split")},
    "eval": api.evaluate,
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

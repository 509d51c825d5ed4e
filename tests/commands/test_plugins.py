"""Plug-ins found by entry points: used end to end, named in the spec, and refused by name where they can't be used."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer

from ntkcli.app import app
from ntkcli.data import DataFile
from ntkcli.data.formats.registry import READERS
from ntkcli.doors import SPEC_KEY
from ntkcli.engine.gradients.registry import PROBES
from ntkcli.selection.registry import SELECTORS
from ntkcli.steps.scores.registry import SCORES
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows
from tests.scoring.kit import make_store

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/plugin"
Install = Callable[..., Path]


def write_package(folder: Path, name: str, version: str, points: dict[str, dict[str, str]], **modules: str) -> Path:
    """A package as an installer leaves it: its modules, and a dist-info with its entry points."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = [
        line
        for group, entries in points.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package of one module; returns the folder on `sys.path`."""

    def write(name: str, points: dict[str, dict[str, str]], *, version: str = "1.0", **modules: str) -> Path:
        folder = write_package(tmp_path / f"site-{name}", name, version, points, **modules)
        for module in modules:
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(str(folder))
        return folder

    return write


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """examples/plugin, installed."""
    said = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = write_package(tmp_path / "site", said["name"], said["version"], said["entry-points"])
    shutil.copy(EXAMPLE / "ntksel_example.py", folder)
    monkeypatch.delitem(sys.modules, "ntksel_example", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_example_end_to_end(example: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pool, domain = make_store(tmp_path)
    score = ("score", path, "--pool", "pool", "--domain", "domain", "--method", "nearest-mean", "--feature", "embed")
    ran = cli(*score, "--name", "near", "--json")
    assert ran.code == 0, ran.err
    unit, to = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (pool, domain))
    expected = -np.linalg.norm(unit - to.mean(axis=0), axis=1)
    expected[5] = np.nan
    artefact = open_store(path).get("scores/near")
    np.testing.assert_allclose(artefact.read("score"), expected, rtol=1e-5)
    made = {"door": "ntksel.scores", "package": "ntksel-example", "version": "0.1.0"}
    assert artefact.spec[SPEC_KEY] == {"nearest-mean": made}
    assert artefact.attrs["environments"][0]["versions"]["ntksel-example"] == "0.1.0"

    select = ("select", path, "--score", "near", "--method", "spread", "-n", "12", "--name", "varied")
    assert cli(*select).code == 0
    taken = [int(np.nanargmax(expected))]
    while len(taken) < 12:
        far = 1 - (unit @ unit[taken].T).max(axis=1)
        far[[*taken, 5]] = -np.inf
        taken.append(int(np.argmax(far)))
    selection = open_store(path).get("selections/varied")
    assert selection.read("row").tolist() == taken
    assert list(selection.spec[SPEC_KEY]) == ["spread"]
    assert "finished already" in cli(*select).err

    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(example)])
    line = (
        "'nearest-mean' of the plug-in ntksel-example 0.1.0, which is not installed. Run `pip install ntksel-example=="
    )
    for again in ((*score, "--name", "near"), ("select", path, "--score", "near", "-n", "3", "--name", "top")):
        ran = cli(*again)
        assert ran.code == 2
        assert line in ran.error_line
    assert "'spread' of the plug-in ntksel-example 0.1.0, which is not installed" in cli(*select[:-1], "new").error_line
    random = ("score", path, "--pool", "pool", "--method", "random", "--rows", "varied", "--name", "random")
    for reads in (("explain", path, "varied", "1-0"), random):
        assert "selections/varied was made with 'spread' of the plug-in ntksel-example" in cli(*reads).error_line
    assert cli("info", path).code == 0
    assert "'nearest-mean' is not one of 'votes'" in cli("score", tmp_path / "t", *score[2:], "--name", "x").error_line


def test_another_version_is_another_spec(install: Install, cli: Cli, tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    module = (EXAMPLE / "ntksel_example.py").read_text(encoding="utf-8")
    folder = install("first", {"ntksel.scores": {"mine": "first_plugin:NEAREST_MEAN"}}, first_plugin=module)
    score = ("score", path, "--pool", "pool", "--domain", "domain", "--feature", "embed", "--method", "mine")
    assert cli(*score, "--name", "a").code == 0
    (folder / "first-1.0.dist-info").rename(folder / "first-1.1.dist-info")
    info = folder / "first-1.1.dist-info/METADATA"
    info.write_text(info.read_text().replace("1.0", "1.1"))
    sys.path.insert(0, str(folder) + "/.")  # found anew, as by a new process
    try:
        ran = cli(*score, "--name", "a")
    finally:
        sys.path.pop(0)
    assert ran.code == 12
    assert 'plugins.mine.version was "1.0", is now "1.1"' in ran.error_line


BROKEN = {
    "ntksel.scores": {"broken": "broken_plugin:SCORE"},
    "ntksel.selectors": {"broken": "broken_plugin:SELECTOR"},
    "ntksel.probes": {"broken": "broken_plugin:PROBE"},
    "ntksel.readers": {"broken": "broken_plugin:READER"},
}


def test_one_that_fails_to_import_breaks_nothing_else(install: Install, cli: Cli, tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    install("broken", BROKEN, broken_plugin="import a_module_that_is_not_there\n")
    score = ("score", path, "--pool", "pool", "--domain", "domain", "--feature", "embed", "--name", "x", "--method")
    line = "The score 'broken' of broken 1.0 can't be loaded from broken_plugin:SCORE: ModuleNotFoundError: No module"
    ran = cli(*score, "broken")
    assert ran.code == 2
    assert line in ran.error_line
    assert "`pip uninstall broken`" in ran.error_line
    assert cli(*score, "cosine").code == 0
    select = ("select", path, "--score", "x", "-n", "3", "--name", "y", "--method")
    assert "The selector 'broken' of broken 1.0 can't be loaded" in cli(*select, "broken").error_line
    assert cli(*select, "top").code == 0
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "a.jsonl").write_text(json.dumps(prompt_rows(1)[0]) + "\n", encoding="utf-8")
    (rows / "b.unknown").write_text("?", encoding="utf-8")
    ran = cli("split", rows, "--test", "0.5")
    assert "The reader 'broken' of broken 1.0 can't be loaded" in ran.err
    assert "unknown" not in ran.error_line  # one row can't be split: the folder was read


def test_two_of_one_name_are_refused_by_name(install: Install, cli: Cli, tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    text = (EXAMPLE / "ntksel_example.py").read_text(encoding="utf-8")
    for name in ("one", "two"):
        install(name, {"ntksel.scores": {"same": f"{name}_plugin:NEAREST_MEAN"}}, **{f"{name}_plugin": text})
    score = ("score", path, "--pool", "pool", "--domain", "domain", "--feature", "embed", "--name", "x", "--method")
    ran = cli(*score, "same")
    assert ran.code == 2
    assert "--method same: one 1.0 and two 1.0 both bring a score of this name. Uninstall one." in ran.error_line
    assert cli(*score, "cosine").code == 0


def test_none_stands_in_for_a_built_in_one(install: Install, cli: Cli, tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    score = ("score", path, "--pool", "pool", "--domain", "domain", "--feature", "embed", "--method", "cosine")
    assert cli(*score, "--name", "x").code == 0
    text = (EXAMPLE / "ntksel_example.py").read_text(encoding="utf-8")
    install("sly", {"ntksel.scores": {"cosine": "sly_plugin:NEAREST_MEAN"}}, sly_plugin=text)
    ran = cli(*score, "--name", "y")
    assert ran.code == 0
    assert "sly 1.0 brings a score 'cosine', which is built in: the built-in one is used" in ran.err
    stored = open_store(path)
    assert stored.get("scores/y").spec == stored.get("scores/x").spec
    assert SPEC_KEY not in stored.get("scores/y").spec


FAULTY = """
import numpy as np
from ntkcli.plugins import FeatureScore, Probe, Selector

def divide(inputs):
    return 1 // 0

def short(inputs):
    return np.zeros(3), None

def twice(chooser, candidates):
    chooser.take(0, 1.0)
    chooser.take(0, 1.0)

def ones(size, *, seed, number):
    return np.ones(size + number, dtype=np.float32)

DIVIDE = FeatureScore(summary="", compute=divide)
SHORT = FeatureScore(summary="", compute=short)
TWICE = Selector(twice, "", needs_features=False)
ONES = Probe(ones, "", seeded=False)
LONG = Probe(lambda size, *, seed, number: np.ones(size + 1, dtype=np.float32), "")
NOTHING = object()
"""
FAULTS = {
    "divide": "The score 'divide' of faulty 1.0 failed: ZeroDivisionError",
    "short": "The score 'short' of faulty 1.0 failed: ValueError: its scores have the shape (3,), expected (60,)",
    "nothing": "faulty_plugin:NOTHING is a object, expected a Score of ntkcli.plugins",
}


@pytest.fixture
def faulty(install: Install) -> None:
    scores = {name: f"faulty_plugin:{name.upper()}" for name in FAULTS}
    probes = {"ones": "faulty_plugin:ONES", "long": "faulty_plugin:LONG"}
    points = {"ntksel.scores": scores, "ntksel.selectors": {"twice": "faulty_plugin:TWICE"}, "ntksel.probes": probes}
    install("faulty", points, faulty_plugin=FAULTY)


@pytest.mark.usefixtures("faulty")
def test_errors_of_a_plug_in_name_it(cli: Cli, tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    score = ("score", path, "--pool", "pool", "--domain", "domain", "--feature", "embed", "--method")
    for method, line in FAULTS.items():
        ran = cli(*score, method, "--name", method)
        assert ran.code in (1, 2)
        assert line in ran.error_line
    ran = cli(*score, "short", "-k", "3", "--name", "x")
    assert "-k does not apply to --method short. It is for votes, rds." in ran.error_line
    assert cli(*score, "cosine", "--name", "y").code == 0
    ran = cli("select", path, "--score", "y", "-n", "3", "--name", "z", "--method", "twice")
    assert "The selector 'twice' of faulty 1.0 failed: ValueError: candidate 0 is closed" in ran.error_line


@pytest.mark.usefixtures("faulty")
def test_a_probe_of_ones_is_the_sum(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("rows.jsonl", prompt_rows(3))
    on = ("featurize", tmp_path / "s", "--data", data, "--name", "rows", "--kind", "ntk", "--model", model_dir)
    on = (*on, "--dim", "64", "--rank", "2", "--probe")
    for probe in ("sum", "ones"):
        assert cli(*on, probe, "--feature", probe).code == 0
    one, other = (open_store(tmp_path / "s").get(f"features/rows/{probe}") for probe in ("sum", "ones"))
    np.testing.assert_array_equal(one.read("sketch"), other.read("sketch"))
    assert set(other.spec) - set(one.spec) == {SPEC_KEY}
    assert "--probes 2: ones is one direction" in cli(*on, "ones", "--probes", "2", "--feature", "x").error_line
    assert "The probe 'long' of faulty 1.0 failed: ValueError" in cli(*on, "long", "--feature", "x").error_line


LINES = """
import pathlib
from ntkcli.plugins import Reader, Url

def rows(path):
    for line in path.read_text().splitlines():
        prompt, completion = line.split(" -> ")
        yield {"prompt": prompt, "completion": completion}

def of_url(url):
    return rows(pathlib.Path(url.removeprefix("lines://")))

def state(url):
    return pathlib.Path(url.removeprefix("lines://")).stat().st_mtime_ns

LINES = Reader(rows, endings=(".arrows",), url=Url(("lines",), of_url, state))
"""


def test_a_reader_of_files_and_urls(
    install: Install, cli: Cli, tmp_path: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install("lines", {"ntksel.readers": {"lines": "lines_plugin:LINES"}}, lines_plugin=LINES)
    rows = [{"prompt": each["prompt"], "completion": each["completion"]} for each in prompt_rows(6)]
    own = tmp_path / "rows.arrows"
    own.write_text("".join(f"{row['prompt']} -> {row['completion']}\n" for row in rows), encoding="utf-8")
    known = write_jsonl("rows.jsonl", rows)
    for name, place in (("own", own), ("known", known), ("url", f"lines://{own}")):
        ran = cli("score", tmp_path / "s", "--pool", f"{name}={place}", "--method", "random", "--name", name)
        assert ran.code == 0, ran.err
    stored = open_store(tmp_path / "s")
    specs = {name: stored.get(f"datasets/{name}").spec for name in ("own", "known", "url")}
    assert len({spec["digest"] for spec in specs.values()}) == 1
    assert SPEC_KEY not in specs["known"]
    for name in ("own", "url"):
        assert specs[name][SPEC_KEY]["lines"]["package"] == "lines"
    dsir = ("score", tmp_path / "s", "--pool", "own", "--domain", "url", "--method", "dsir", "--name")
    assert cli(*dsir, "words").code == 0
    own.write_text(own.read_text() + "no arrow\n", encoding="utf-8")
    ran = cli(*dsir, "more")
    assert "can't be read after row 6: the reader 'lines' of lines 1.0 failed with ValueError" in ran.error_line
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(folder)])
    ran = cli(*dsir, "more")
    assert ran.code == 2
    assert "datasets/url was made with 'lines' of the plug-in lines 1.0, which is not installed" in ran.error_line
    assert "is not of a type that can be read" in cli("split", own, "--test", "0.5").error_line


def test_what_the_documentation_shows_works(install: Install, cli: Cli, tmp_path: Path) -> None:
    """The code of docs/extend.md, as one module."""
    page = (EXAMPLE.parents[1] / "docs/extend.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    (project,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    described = tomllib.loads(project)
    named = {point for points in described["project"]["entry-points"].values() for point in points.values()}
    assert described["tool"]["setuptools"]["py-modules"] == ["my_methods"]
    assert named == {"my_methods:NEAREST_MEAN", "my_methods:CLOSEST"}
    names = {"scores": "NEAREST_MEAN", "selectors": "CLOSEST", "probes": "FIRST_HALF", "readers": "ARROWS"}
    install(
        "shown",
        {f"ntksel.{door}": {"shown": f"shown_plugin:{name}"} for door, name in names.items()},
        shown_plugin=code,
    )
    path, pool, domain = make_store(tmp_path)
    score = ("score", path, "--pool", "pool", "--domain", "domain", "--feature", "embed", "--method", "shown")
    assert cli(*score, "--name", "x").code == 0
    unit, to = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (pool, domain))
    far = np.linalg.norm(unit - to.mean(axis=0), axis=1)
    np.testing.assert_allclose(
        np.delete(open_store(path).get("scores/x").read("score"), 5), -np.delete(far, 5), rtol=1e-5
    )
    assert cli("select", path, "--score", "x", "-n", "7", "--method", "shown", "--name", "y").code == 0
    closest = (unit @ to.T).max(axis=1)
    closest[5] = -1
    assert open_store(path).get("selections/y").read("row").tolist() == np.argsort(-closest)[:7].tolist()
    assert PROBES.get("shown").direction(5, seed=0, number=0).tolist() == [1, 1, 0, 0, 0]
    (tmp_path / "a.arrows").write_text("red? -> blue\n", encoding="utf-8")
    assert [row.raw["completion"] for row in DataFile(tmp_path / "a.arrows").rows()] == ["blue"]


def test_help_and_completion_list_names_and_import_nothing(example: Path) -> None:
    """In a process of its own, where the package is installed when ntksel starts."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from ntkcli.app import run; code = run(['score', '--help']);"
        "heavy = {'ntksel_example', 'numpy', 'torch'} & set(sys.modules); sys.exit(f'{code} {heavy}' if heavy else 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(example)],
        capture_output=True,
        text=True,
        check=False,
        env={"COLUMNS": "400", "PYTHONPATH": str(EXAMPLE.parents[1])},
    )
    assert ran.returncode == 0, ran.stderr
    assert "random|nearest-mean>" in ran.stdout
    select = typer.main.get_command(app).commands["select"]  # type: ignore[attr-defined]
    method = next(option for option in select.params if option.name == "method")
    completed = method.shell_complete(typer.Context(select), "")
    assert [item.value for item in completed] == [*SELECTORS.builtin, "spread"]


@pytest.mark.parametrize("door", [SCORES, SELECTORS, PROBES])
def test_every_built_in_name_is_explained_in_help(door: object) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    option = {"score": SCORES, "select": SELECTORS, "featurize": PROBES}
    command = next(name for name, each in option.items() if each is door)
    text = next(o.help for o in commands[command].params if f"--{o.name}" == option[command].option)
    for name, entry in option[command].builtin.items():
        assert f"{name}: {entry.summary}" in text


def test_help_names_every_reader() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    text = next(o.help for o in commands["featurize"].params if o.name == "data")
    assert ", ".join(READERS.builtin) in text

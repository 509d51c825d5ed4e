"""`ntksel run`: a recipe stands for its commands, goes on after a kill, and a slip in it is named with its line."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> Path:
    """The two stages on tiny files."""
    write_jsonl("pool.jsonl", prompt_rows(60, seed=1, source="general"))
    write_jsonl("domain.jsonl", prompt_rows(16, seed=2))
    write_jsonl("test.jsonl", choice_rows(20))
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
store = "{tmp_path}/med"
[defaults]
model = "{model_dir}"
max-length = 96
[defaults.featurize]
adapter = "warmup"
[[step]]
verb = "finetune"
train = "{tmp_path}/domain.jsonl"
name = "warmup"
epochs = 1
checkpoint_steps = 1
[[step]]
verb = "featurize"
data = "{tmp_path}/domain.jsonl"
name = "domain"
kind = "ntk"
dim = 64
[[step]]
verb = "featurize"
data = "{tmp_path}/pool.jsonl"
name = "pool"
kind = "ntk"
dim = 64
part-rows = 8
[[step]]
verb = "score"
pool = "pool"
domain = ["domain"]
method = "cosine"
centre = true
name = "s"
[[step]]
verb = "select"
score = "s"
n = 8
name = "picked"
export = "{tmp_path}/picked.jsonl"
[[step]]
verb = "finetune"
train = ["{tmp_path}/domain.jsonl", "picked"]
name = "mixed"
epochs = 1
[[step]]
verb = "eval"
run = ["base", "mixed"]
task = "{tmp_path}/test.jsonl"
name = "test"
""",
        encoding="utf-8",
    )
    return path


def digests(out: str) -> list[object]:
    found = json.loads(out)["steps"]
    return [step["result"].get("digest", step["result"].get("digests")) for step in found]


def test_the_example_is_the_readmes_chain_behind_a_preselection(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = tmp_path / "recipe.toml"
    example.write_text(cli("run", "--example").out, encoding="utf-8")
    paper = re.findall(r"^probe = .*# the paper's own: (.*)$", example.read_text(), re.MULTILINE)
    assert paper == ['"sum"', '"sum"']  # to leave it out is to take the default, which is centred
    assert "domain.jsonl does not exist" in cli("run", example, "--dry-run").error_line
    for name in ("domain", "pool", "test"):
        (tmp_path / f"{name}.jsonl").touch()
    ran = cli("run", example, "--dry-run")
    assert ran.code == 0, ran.err
    made = [shlex.split(line) for line in ran.out.splitlines()]
    verbs = ["finetune", "featurize", "featurize", "score", "select"]  # warm up, pre-select by embedding
    verbs += ["featurize", "featurize", "score", "select", "finetune", "eval"]  # choose by the kernel, train, evaluate
    assert [words[1] for words in made] == verbs
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme[readme.index("    ntksel finetune  med") : readme.index("    ntksel info      med")]
    shown = [shlex.split(line) for line in re.findall(r"^\s*(ntksel .*)$", block, re.MULTILINE)]
    chain = iter(verbs)
    assert all(words[1] in chain for words in shown)  # the README's is this chain without the pre-selection


def test_a_killed_recipe_ends_in_the_same_digests(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    unbroken = cli("run", recipe, "--json")
    assert unbroken.code == 0, unbroken.err
    other = tmp_path / "other.toml"
    other.write_text(recipe.read_text().replace(f"{tmp_path}/med", f"{tmp_path}/killed"), encoding="utf-8")
    command = [sys.executable, "-m", "ntkcli", "run", str(other), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    records = tmp_path / "killed/arrays.zarr/features/pool/ntk/part/c"
    while process.poll() is None and len(list(records.glob("*"))) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), stderr
    again = cli("run", other, "--json")
    assert again.code == 0, again.err
    assert digests(again.out) == digests(unbroken.out)
    assert "finished already" in again.err


def test_the_printed_commands_do_the_same(cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that `--dry-run` prints runs as it stands; behind them the recipe has nothing left to load."""
    from ntkcli.engine.models import loading

    shown = cli("run", recipe, "--dry-run").out.splitlines()
    by_hand = []
    for line in shown:
        ran = cli(*shlex.split(line)[1:], "--json")
        assert ran.code == 0, ran.err
        result = json.loads(ran.out)
        by_hand.append(result.get("digest", result.get("digests")))
    monkeypatch.setattr(loading, "load_model", None)  # calling it would fail
    assert digests(cli("run", recipe, "--json").out) == by_hand


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("max-length = 96", "max-lenght = 96", r"line 5: the key 'max-lenght' is not known. Do you mean 'max-length'"),
        ("epochs = 1\ncheck", "epoch = 1\ncheck", r"line 12, finetune: the key 'epoch' .* Do you mean 'epochs'"),
        ('verb = "score"', 'verb = "scores"', r"the verb 'scores' is not known. Do you mean 'score'"),
        ('verb = "score"', "", r"line 27: the step has no verb. Give one of: featurize, score"),
        ('store = "', 'sotre = "', r"line 2: the key 'sotre' is not known. Do you mean 'store'"),
        ("n = 8", "n = 8\njson = true", r"the key 'json' is not known"),
        ('method = "cosine"', 'method = "cosin"', r"line 31, step 4 \(score\): Invalid value for '--method'"),
        ("centre = true", "centre = 3", r"line 32, score: centre = 3 is a switch. Give true or false"),
        ('kind = "ntk"\ndim = 64\npart', "dim = 64\npart", r"step 3 \(featurize\): Missing option '--kind'"),
        (
            'score = "s"',
            'score = "t"',
            r"line 36, step 5 \(select\): no earlier step makes scores/t, .* There are: s\.",
        ),
        ('"picked"]', '"piked"]', r"no earlier step makes selections/piked, .* Do you mean 'picked'"),
        ('adapter = "warmup"', 'adapter = "warm-up"', r"no earlier step makes runs/warm-up"),
        ("[defaults.featurize]", "[defaults.explain]", r"the key 'adapter' is not known"),
        ("max-length = 96", "exponent = 0.5\nlr = 1e-3\nselection = 3", r"the key 'selection' is not known"),
        ("max-length = 96", 'pooling = "mean"\nmethod = {a = [1}', r"is not valid TOML: .*line 6"),
        ("/test.jsonl", "/tset.jsonl", r"line 48, step 7 \(eval\): .*tset.jsonl does not exist. Give a file"),
        (
            '/domain.jsonl", "picked',
            '/dom.jsonl=2", "picked',
            r"line 42, step 6 \(finetune\): .*dom.jsonl does not exist",
        ),
        ("[[step]]", "[[stage]]", r"the key 'stage' is not known. Do you mean 'step'"),
        ('pool = "pool"', 'pool = "p=pol.jsonl"', r"line 29, step 4 \(score\): pol.jsonl does not exist"),
        ('pool = "pool"', 'pool = "pol"', r"no earlier step makes datasets/pol, .* Do you mean 'pool'"),
        ("n = 8", 'match-tokens = "piked"', r"no earlier step makes selections/piked"),
        ("n = 8", 'n = 8\nonly = "best"', r"no earlier step makes selections/best"),
        ("n = 8", 'n = 8\nagainst = "tests.jsonl"', r"step 5 \(select\): tests.jsonl does not exist"),
        ('name = "mixed"', 'name = "mixed"\nmatch-steps = "warm-up"', r"no earlier step makes runs/warm-up"),
        ('name = "mixed"', 'name = "mixed"\nthen = "piked=2"', r"no earlier step makes selections/piked"),
        ('name = "mixed"', 'name = "mixed"\nthen = "rest.jsonl"', r"step 6 \(finetune\): rest.jsonl does not exist"),
    ],
)
def test_a_slip_is_named(cli: Cli, recipe: Path, old: str, new: str, told: str) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert old in text
    recipe.write_text(text.replace(old, new), encoding="utf-8")
    ran = cli("run", recipe)
    assert ran.code == 2
    assert re.search(told, ran.error_line), ran.error_line
    assert not (recipe.parent / "med").exists()


def test_labels_and_files_are_no_names(cli: Cli, recipe: Path) -> None:
    """What `only`, `then` and `against` take besides names of the store."""
    folder, text = recipe.parent, recipe.read_text(encoding="utf-8")
    selected = f'n = 8\nonly = ["source=general", "{folder}/domain.jsonl"]\nagainst = "{folder}/test.jsonl"'
    trained = f'name = "mixed"\nthen = ["{folder}/domain.jsonl=2", "picked"]'
    recipe.write_text(text.replace("n = 8", selected).replace('name = "mixed"', trained), encoding="utf-8")
    ran = cli("run", recipe, "--dry-run")
    assert ran.code == 0, ran.err


def test_a_step_that_fails_ends_the_recipe_with_its_code(cli: Cli, recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    first, second = (f"[[step]]{part}" for part in text.split("[[step]]")[1:3])
    head = text[: text.index("[[step]]")]
    recipe.write_text(head + first + second, encoding="utf-8")
    assert cli("run", recipe, "-q").code == 0
    recipe.write_text(text.replace("dim = 64\n[[step]]", "dim = 32\n[[step]]"), encoding="utf-8")
    ran = cli("run", recipe)
    assert ran.code == 12
    assert "projection.dim" in ran.error_line
    assert "(command 2 of 7: ntksel featurize " in ran.error_line


def test_skipped_rows_are_told_by_the_exit_code(cli: Cli, recipe: Path) -> None:
    pool = recipe.parent / "pool.jsonl"
    pool.write_text("broken\n" + pool.read_text(), encoding="utf-8")
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("part-rows = 8", 'part-rows = 8\non-error = "skip"'), encoding="utf-8")
    ran = cli("run", recipe, "--json")
    assert ran.code == 3, ran.err
    assert [step["code"] for step in json.loads(ran.out)["steps"]] == [0, 0, 3, 0, 0, 0, 0]


def test_false_leaves_a_default_out(cli: Cli, recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("part-rows = 8", "part-rows = 8\nadapter = false"), encoding="utf-8")
    lines = cli("run", recipe, "--dry-run").out.splitlines()
    assert "--adapter" in lines[1]
    assert "--adapter" not in lines[2]


def test_a_file_that_an_earlier_step_writes_may_be_missing(cli: Cli, recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace('"picked"]', f'"{recipe.parent}/picked.jsonl=0.5"]'), encoding="utf-8")
    ran = cli("run", recipe, "--dry-run")
    assert ran.code == 0, ran.err


def test_a_score_may_name_files(cli: Cli, recipe: Path) -> None:
    """`pool = "NAME=FILE"` is that data set, for the steps behind it too."""
    folder = recipe.parent
    recipe.write_text(
        f"""
store = "{folder}/words"
[[step]]
verb = "score"
pool = "p={folder}/pool.jsonl"
domain = "d={folder}/domain.jsonl"
method = "bm25"
name = "words"
[[step]]
verb = "score"
pool = "p"
method = "random"
name = "chance"
""",
        encoding="utf-8",
    )
    ran = cli("run", recipe)
    assert ran.code == 0, ran.err


def test_without_a_recipe(cli: Cli, tmp_path: Path) -> None:
    ran = cli("run")
    assert ran.code == 2
    assert "ntksel run --example > recipe.toml" in ran.error_line
    ran = cli("run", tmp_path / "none.toml")
    assert ran.code == 2
    assert "can't be read" in ran.error_line

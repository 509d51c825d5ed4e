"""Every option of every verb, by introspection: it changes the spec, or it changes no value. tests/commands/effects.py.

An option that is new and has no declared effect fails here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from ntkcli.app import run
from tests.app_commands import COMMANDS as VERBS
from tests.commands.conftest import Cli, Ran
from tests.commands.effects import (
    ARMS,
    CHAINS,
    COMMANDS,
    EFFECTS,
    ELSEWHERE,
    NO_ARTEFACTS,
    Case,
    Close,
    Name,
    Renamed,
    Shown,
    Value,
)
from tests.conftest import CHATML, choice_rows, prompt_rows, save_model, text_rows, write_rows
from tests.steps.evaluation.lm_eval_kit import CHOICES, write_task

SWITCH = "{% if enable_thinking is defined %}{{ '[' ~ enable_thinking ~ ']' }}{% endif %}"
KINDS = {"score": "scores", "select": "selections", "finetune": "runs", "validate": "validations"}
CASES = [(verb, option) for verb, options in EFFECTS.items() for option in options]


class World:
    """A folder with data and models, and commands on a store in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "s"

    def fill(self) -> None:
        pool = [{**row, "source": "ab"[i % 2]} for i, row in enumerate(prompt_rows(10, seed=1))]
        domain = [{**row, "source": "xy"[i % 2]} for i, row in enumerate(prompt_rows(7, seed=2))]
        (self.folder / "folder").mkdir()
        for name, rows in {
            "pool.jsonl": pool,
            "copy.jsonl": pool,
            "domain.jsonl": domain,
            "test.jsonl": choice_rows(4),
            "more.jsonl": choice_rows(3, seed=1),
            "written.jsonl": prompt_rows(3, seed=3),
            "texts.jsonl": text_rows(4),
            "documents.jsonl": text_rows(6, seed=1),
            "folder/train.jsonl": prompt_rows(4, seed=4),
            "folder/test.jsonl": prompt_rows(4, seed=5),
        }.items():
            write_rows(self.folder / name, rows)
        write_task(self.folder, "more", CHOICES)
        (self.folder / "ids.txt").write_text("1-3\n")
        for name in ("foreign.jsonl", "foreign2.jsonl", "foreign.csv", "foreign.svg"):
            (self.folder / name).write_text("{}\n")
        for name, seed in (("m", 0), ("other", 1)):
            save_model(self.folder / name, seed=seed)
            (self.folder / name / "chat_template.jinja").write_text(CHATML.replace("{% if add", SWITCH + "{% if add"))

    def words(self, verb: str, text: str) -> list[str]:
        """The words behind `ntksel`; a word in braces is a path of the folder."""
        found = [word.replace("{", f"{self.folder}/").replace("}", "") for word in shlex.split(text)]
        return [verb, str(self.store), *found]

    def setup(self) -> list[list[str]]:
        """The commands of `COMMANDS`, and what they read."""
        domain = "--data {domain.jsonl} --name domain --model {m}"
        made = [("finetune", "--model {m} --train {domain.jsonl} --epochs 1 --rank 2 --keep-optimizer --name warm")]
        made += [("featurize", text) for text in COMMANDS["featurize"].values()]
        made += [
            ("featurize", f"{domain} --kind ntk --dim 64 --probe rademacher"),
            ("featurize", f"{domain} --kind embed"),
            ("featurize", f"{domain} --kind embed --adapter warm --feature kept"),
        ]
        made += [("score", COMMANDS["score"]["cosine"])]
        made += [("select", text) for text in COMMANDS["select"].values()]
        made += [("select", "--score cosine -n 6 --name coarse")]
        made += [("score", text) for text in list(COMMANDS["score"].values())[1:] if text]
        made += [(verb, text) for verb in ("finetune", "eval", "validate") for text in COMMANDS[verb].values()]
        return [self.words(verb, text) for verb, text in made]

    def artefacts(self, verb: str, text: str) -> list[str]:
        """What a command of `COMMANDS` makes."""
        words = shlex.split(text)
        given = dict(pairwise(words))
        if verb == "featurize":
            return [f"features/{given['--name']}/{given.get('--feature', given['--kind'])}"]
        if verb == "eval":
            runs = [word for option, word in pairwise(words) if option == "--run"]
            return [f"evals/{given['--name']}/{run}" for run in runs]
        kind = "sweeps" if "--lr-find" in words else KINDS[verb]
        return [f"{kind}/{given['--name']}"]

    def content(self, name: str) -> dict[str, Any]:
        """All arrays of an artefact, and of a run its adapter's weights."""
        artefact = store.Store.open(self.store).get(name)
        found: dict[str, Any] = {array: artefact.read(array) for array in sorted(artefact.arrays)}
        if name.startswith("runs/"):
            from safetensors.numpy import load_file

            found |= load_file(self.store / "adapters" / name.partition("/")[2] / "adapter_model.safetensors")
        return found

    def fingerprint(self, name: str) -> str:
        artefact = store.Store.open(self.store).get(name)
        assert artefact.complete
        return artefact.fingerprint


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    made.fill()
    for words in made.setup():
        assert run([*words, "--quiet"]) == 0, shlex.join(words)
    return made


def assert_same(old: dict[str, Any], new: dict[str, Any], *, within: float | None) -> None:
    """Equal arrays, bit for bit, or `within` this share of the largest value."""
    assert old.keys() == new.keys()
    for name, values in old.items():
        if values.dtype.kind != "f":
            assert values.tolist() == new[name].tolist(), name
        elif within is None:
            assert values.tobytes() == new[name].tobytes(), name
        else:
            scale = float(np.nanmax(np.abs(values.astype(np.float64)), initial=0.0))
            np.testing.assert_allclose(new[name], values, rtol=within, atol=within * scale, err_msg=name)


def assert_names_options(verb: str, line: str) -> None:
    """A refusal that ends in options in brackets names those of this verb alone; others say their fix in words."""
    ending = re.search(r"\((-[^()]*)\)\.$", line)
    there = {option for parameter in VERBS[verb].params for option in (*parameter.opts, *parameter.secondary_opts)}
    named = set() if ending is None else set(ending[1].replace(" or ", ", ").split(", "))
    assert named <= there | {"the version of the plug-in"}, line


def test_every_verb_and_option_has_a_declared_effect() -> None:
    assert set(VERBS) == {*EFFECTS, *NO_ARTEFACTS, *CHAINS, *ELSEWHERE}, (
        "declare the new verb in tests/commands/effects.py"
    )
    for verb, options in EFFECTS.items():
        there = {str(parameter.name) for parameter in VERBS[verb].params} | {"help"}
        assert there == options.keys(), (
            f"{verb}: declare in tests/commands/effects.py what the new option does to values"
        )


def test_every_option_of_a_chain_is_declared() -> None:
    for verb, options in CHAINS.items():
        assert {str(p.name) for p in VERBS[verb].params} == options.keys(), f"{verb}: tests/commands/effects.py"


def test_every_option_of_arms_reaches_its_steps(world: World, cli: Cli, tmp_path: Path) -> None:
    """So that a change is refused by the step that it would change; what is not declared to change them does not."""
    there = World(world.folder)
    there.store = tmp_path / "s"

    def commands(words: str) -> list[str]:
        ran = cli(*there.words("arms", f"{ARMS} {words}"))
        assert ran.code == 0, f"{words}: {ran.err}"
        found: list[str] = json.loads(ran.out)["commands"]
        return found

    usual = commands("")
    seen: list[str] = []
    budget, untested = ARMS.replace("-n 3 ", ""), ARMS.replace("--task {test.jsonl} ", "")
    for option, words in CHAINS["arms"].items():
        if option in ("token_budget", "sizes"):
            ran = cli(*there.words("arms", f"{budget} {words}"))
            assert json.loads(ran.out)["commands"] != usual, option
        elif option in ("folds", "by"):
            ran = cli(*there.words("arms", f"{untested} {words}"))
            assert json.loads(ran.out)["commands"] not in (usual, seen), option
            seen = json.loads(ran.out)["commands"]
        elif words:
            assert commands(words) != usual, option


def test_a_case_gives_the_option_that_it_is_of() -> None:
    for verb, options in EFFECTS.items():
        flags = {str(p.name): {*p.opts, *p.secondary_opts} for p in VERBS[verb].params}
        for option, cases in options.items():
            assert all(set(case.words.split()) & flags[option] for case in cases if not isinstance(case, Name)), option


@pytest.mark.parametrize(("verb", "option"), CASES)
def test_effect(verb: str, option: str, world: World, cli: Cli) -> None:
    for number, case in enumerate(EFFECTS[verb][option]):
        if not isinstance(case, Name):
            check(verb, case, f"{option.replace('_', '-')}{number}", world, cli)


def check(verb: str, case: Case, label: str, world: World, cli: Cli) -> None:
    text = COMMANDS[verb][case.on or next(iter(COMMANDS[verb]))]
    words = [*world.words(verb, text), *world.words(verb, case.words)[2:]]
    names = world.artefacts(verb, text) if text else []
    before = {name: world.fingerprint(name) for name in names}
    if isinstance(case, Value):
        ran = cli(*words)
        assert ran.code == 12, f"{shlex.join(words)}: {ran.code} {ran.err}"
        assert_names_options(verb, ran.error_line)
        assert {name: world.fingerprint(name) for name in names} == before
        return
    if not isinstance(case, Renamed):
        ran = cli(*words)
        assert ran.code == 0, ran.err
        assert {name: world.fingerprint(name) for name in names} == before
    if isinstance(case, Shown):
        return
    place = "--feature" if verb == "featurize" else "--name"
    for more in (case.words, *case.more):
        ran = cli(*world.words(verb, f"{text} {more} {place} {label}"))
        assert ran.code == 0, ran.err
    new = world.artefacts(verb, f"{text} {place} {label}")
    new = [f"{name}.s0" for name in new] if isinstance(case, Renamed) else new
    for old_name, new_name in zip(names, new, strict=True):
        assert world.fingerprint(new_name) == before[old_name]
        within = 2e-3 if isinstance(case, Close) else None
        assert_same(world.content(old_name), world.content(new_name), within=within)


@pytest.fixture
def copied(world: World, tmp_path: Path) -> World:
    """The same folder, and a store of its own."""
    shutil.copytree(world.store, tmp_path / "s")
    made = World(world.folder)
    made.store = tmp_path / "s"
    return made


def changed_model(folder: Path, change: str, tmp_path: Path) -> Path:
    """A copy of a model with one thing changed."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    if change == "weights":
        from safetensors.numpy import load_file, save_file

        weights = load_file(copy / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    elif change == "template":
        (copy / "chat_template.jinja").write_text((copy / "chat_template.jinja").read_text() + " ")
    else:
        path = copy / change
        said = json.loads(path.read_text())
        key = {"config.json": "rms_norm_eps", "generation_config.json": "eos_token_id"}[change]
        path.write_text(json.dumps({**said, key: 7}))
    return copy


MODEL_INPUTS = [
    *[
        (verb, "", change)
        for verb in ("featurize", "finetune", "eval")
        for change in ("weights", "template", "config.json")
    ],
    ("eval", "generate", "generation_config.json"),
]


@pytest.mark.parametrize(("verb", "on", "change"), MODEL_INPUTS)
def test_a_changed_model_is_another(verb: str, on: str, change: str, world: World, cli: Cli, tmp_path: Path) -> None:
    text = COMMANDS[verb][on or next(iter(COMMANDS[verb]))]
    model = changed_model(world.folder / "m", change, tmp_path)
    assert cli(*world.words(verb, text)).code == 0
    assert cli(*world.words(verb, f"{text} --model {model}")).code == 12


FILES = [
    ("featurize", "ntk", "--data", "pool.jsonl"),
    ("finetune", "run", "--train", "domain.jsonl"),
    ("eval", "choices", "--task", "test.jsonl"),
    ("select", "against", "--against", "test.jsonl"),
]


@pytest.mark.parametrize("change", ["text", "order", "fewer"])
@pytest.mark.parametrize(("verb", "on", "option", "name"), FILES)
def test_changed_rows_are_others(
    verb: str, on: str, option: str, name: str, change: str, world: World, cli: Cli, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (world.folder / name).read_text().splitlines()]
    rows = {"text": [{**rows[0], "prompt": "Other?"}, *rows[1:]], "order": rows[::-1], "fewer": rows[1:]}[change]
    file = write_rows(tmp_path / name, rows)
    text = COMMANDS[verb][on].replace(f"{{{name}}}", str(file))
    assert str(file) in text
    assert cli(*world.words(verb, text)).code == 12


REMADE = [
    # what is removed, the command that makes it otherwise, and commands that read it
    ("runs/warm", "finetune --model {m} --train {domain.jsonl} --epochs 2 --rank 2 --name warm",
     ["featurize --data {pool.jsonl} --name pool --kind loss --model {m} --dim 64 --adapter warm --feature loss",
      "eval " + COMMANDS["eval"]["choices"]]),
    ("features/pool/embed", "featurize --data {pool.jsonl} --name pool --kind embed --model {m} --max-length 50",
     ["score " + COMMANDS["score"]["votes"], "select " + COMMANDS["select"]["coverage"]]),
    ("features/domain/embed", "featurize --data {domain.jsonl} --name domain --kind embed --model {m} --max-length 50",
     ["score " + COMMANDS["score"]["votes"], "select " + COMMANDS["select"]["coverage"]]),
    ("scores/cosine", "score --pool pool --domain domain --feature embed --method max --name cosine",
     ["select " + COMMANDS["select"]["top"], "score " + COMMANDS["score"]["combine"]]),
    ("selections/picked", "select --score cosine -n 3 --name picked", ["score " + COMMANDS["score"]["length"]]),
    ("selections/coarse", "select --score cosine -n 3 --name coarse",
     ["score --pool pool --method random --rows coarse --name some",
      "finetune --model {m} --train coarse --epochs 1 --name trained",
      "featurize --data {pool.jsonl} --name pool --kind embed --feature few --rows coarse --model {m}"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "remake", "readers"), REMADE)
def test_what_was_made_anew_is_another(name: str, remake: str, readers: list[str], copied: World, cli: Cli) -> None:
    def call(text: str) -> Ran:
        verb, _, rest = text.partition(" ")
        return cli(*copied.words(verb, rest))

    for reader in readers:
        assert (ran := call(reader)).code == 0, ran.err
    assert cli("rm", copied.store, name, "--force").code == 0
    assert (ran := call(remake)).code == 0, ran.err
    for reader in readers:
        assert (ran := call(reader)).code == 12, f"{reader}: {ran.err}"


def test_a_run_does_not_depend_on_those_before_it(copied: World, cli: Cli) -> None:
    """Alone, first or last among the runs of an eval: the same bytes."""
    for name, runs in {"alone": "--run warm", "last": "--run run --run held --run warm --run base"}.items():
        ran = cli(*copied.words("eval", f"--model {{m}} {runs} --task {{test.jsonl}} --name {name}"))
        assert ran.code == 0, ran.err
        for run_name in ("warm", "base") if name == "last" else ("warm",):
            old = copied.content(f"evals/choices/{run_name}")
            assert copied.fingerprint(f"evals/{name}/{run_name}") == copied.fingerprint(f"evals/choices/{run_name}")
            assert_same(old, copied.content(f"evals/{name}/{run_name}"), within=None)


AROUND = """
import os, random, sys, time
scandir, listdir = os.scandir, os.listdir
class Backwards:
    def __init__(self, path): self._entries = iter(sorted(scandir(path), key=lambda entry: entry.name, reverse=True))
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def __iter__(self): return self._entries
    def __next__(self): return next(self._entries)
    def close(self): pass
os.scandir = lambda path=".": Backwards(path)
os.listdir = lambda path=".": sorted(listdir(path), reverse=True)
import numpy, torch
random.seed(9); numpy.random.seed(9); torch.manual_seed(9); torch.set_grad_enabled(True)
now = time.time
time.time = lambda: now() + 40_000_000
from ntkcli.app import run
import json
for words in json.load(sys.stdin):
    assert run([*words, "--quiet"]) == 0, words
"""
HIDDEN = {
    "PYTHONHASHSEED": "77", "LC_ALL": "tr_TR.UTF-8", "LANG": "C", "TZ": "Pacific/Kiritimati", "COLUMNS": "40",
    "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_USE_CPU": "false",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER", "TOKENIZERS_PARALLELISM": "true", "TRANSFORMERS_VERBOSITY": "info",
    "HF_DATASETS_CACHE": "", "WANDB_DISABLED": "true", "PYTORCH_NVML_BASED_CUDA_CHECK": "1", "NO_COLOR": "1",
}  # fmt: skip


def test_nothing_around_a_command_changes_a_value(world: World, tmp_path: Path) -> None:
    """Another process with another hash seed, locale, zone, clock, folder, order of files, random state, variables."""
    there = World(world.folder)
    there.store = tmp_path / "s"
    given = {key: value for key, value in HIDDEN.items() if value}
    process = subprocess.run(
        [sys.executable, "-c", AROUND],
        input=json.dumps(there.setup()),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **given},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    for name in made_by_setup():
        assert there.fingerprint(name) == world.fingerprint(name), name
        assert_same(world.content(name), there.content(name), within=None)


def made_by_setup() -> Iterator[str]:
    names = World(Path())
    for verb, commands in COMMANDS.items():
        for text in filter(None, commands.values()):
            yield from names.artefacts(verb, text)

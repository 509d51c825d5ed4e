"""The driver: what is shared how, in what order, and that the bytes are those of one process."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import store
from ntkcli import api
from ntkcli.choices import Design, Thinking
from ntkcli.commands.as_words import as_words
from ntkcli.errors import DataError, NtkselError, UsageError
from ntkcli.progress import Silent
from ntkcli.steps.cluster.drive import Driver, split
from ntkcli.steps.cluster.jobs import Job, Outcome
from ntkcli.steps.cluster.nodes import ask, look, refuse_unfit
from ntkcli.steps.cluster.ray_pool import gpu_share
from ntkcli.steps.cluster.words import by_seed, depends, for_share, is_shared
from tests.commands.conftest import Cli, cli
from tests.conftest import Writer, choice_rows, prompt_rows
from tests.steps.cluster.kit import Inline, arrays_of, inline

__all__ = ["cli", "inline"]


def made_up(path: Path, parts: int, name: str = "scores/s") -> store.Store:
    made = store.Store.open_or_create(path, made_by="test")
    array = store.ArraySpec("float32")
    made.create(name, kind="score", spec={}, parents={}, n=parts, part_rows=1, arrays={"score": array})
    return made


def write(path: Path, job: Job, name: str = "scores/s") -> Outcome:
    import numpy as np

    artefact = store.Store.open(path).get(name)
    wanted = artefact.pending()[:1] if job.parts is None else dict(job.parts)[name]
    for part in wanted:
        artefact.write_part(part, {"score": np.ones(1, np.float32)})
    return Outcome((name,))


COMMAND = ["featurize", "S", "--data", "d", "--name", "s", "--kind", "ntk", "--model", "m"]


def test_the_first_part_alone_then_all_others_once(tmp_path: Path) -> None:
    made_up(tmp_path / "s", 30)
    pool = Inline(lambda job: write(tmp_path / "s", job), slots=2)
    finished: list[int] = []
    Driver(pool, tmp_path / "s", finished.append, Silent()).run([[*COMMAND, "--ray", "local", "--json"]])
    assert finished == [0]
    assert [job.parts for job in pool.jobs].count(None) == 1
    shared = [part for job in pool.jobs[1:] for _, parts in job.parts or () for part in parts]
    assert sorted(shared) == list(range(1, 30))
    assert len(pool.jobs) == 1 + 2 * 4
    assert {job.words for job in pool.jobs} == {tuple(COMMAND)}
    assert store.Store.open(tmp_path / "s").get("scores/s").complete


def test_pieces_are_even_and_in_order() -> None:
    pending = [("a", i) for i in range(5)] + [("b", i) for i in range(4)]
    pieces = split(pending, 4)
    assert [sum(len(parts) for _, parts in piece) for piece in pieces] == [2, 2, 2, 3]
    assert [(name, part) for piece in pieces for name, parts in piece for part in parts] == pending
    assert split(pending[:2], 4) == [(("a", (0,)),), (("a", (1,)),)]
    assert split([], 4) == []


def test_an_error_ends_all_and_interrupts_what_runs(tmp_path: Path) -> None:
    made_up(tmp_path / "s", 9)
    calls: list[Job] = []

    def fails(job: Job) -> Outcome:
        calls.append(job)
        return (
            Outcome(error=DataError("Row 3 is bad.", "Give --on-error skip."))
            if len(calls) == 3
            else write(tmp_path / "s", job)
        )

    pool = Inline(fails)
    with pytest.raises(DataError, match=r"Row 3 is bad\. Give --on-error skip\."):
        Driver(pool, tmp_path / "s", lambda _: pytest.fail("finished"), Silent()).run([COMMAND])
    assert sorted(pool.cancelled) == sorted(pool.waiting)
    assert pool.cancelled


def test_ctrl_c_interrupts_what_runs_and_a_second_run_does_the_rest(tmp_path: Path) -> None:
    made = made_up(tmp_path / "s", 20)

    def interrupted(job: Job) -> Outcome:
        if len(made.get("scores/s").pending()) < 15:
            raise KeyboardInterrupt
        return write(tmp_path / "s", job)

    pool = Inline(interrupted)
    with pytest.raises(KeyboardInterrupt):
        Driver(pool, tmp_path / "s", lambda _: None, Silent()).run([COMMAND])
    assert pool.cancelled
    left = len(made.get("scores/s").pending())
    assert 0 < left < 20
    again = Inline(lambda job: write(tmp_path / "s", job))
    Driver(again, tmp_path / "s", lambda _: None, Silent()).run([COMMAND])
    assert made.get("scores/s").complete
    assert sum(len(parts) for job in again.jobs[1:] for _, parts in job.parts or ()) == left - 1


def arm(name: str, *more: str) -> list[str]:
    return ["finetune", "S", "--model", "m", "--train", "d.jsonl", "--train", "picked", "--name", name, *more]


def test_trainings_of_arms_are_all_in_flight_at_once(tmp_path: Path) -> None:
    """9 arms of 3 seeds; one is as long as another, so waits for it. Then the evaluation."""
    store.Store.open_or_create(tmp_path, made_by="test")
    commands = [
        ["select", "S", "--score", "s", "-n", "3", "--name", "picked"],
        *(arm(f"arm{i}", "--seeds", "0,1,2") for i in range(8)),
        *(arm(f"long.s{i}", "--seeds", f"{i}", "--match-steps", f"arm0.s{i}") for i in range(3)),
        ["eval", "S", "--model", "m", "--run", "arm0", "--run", "long", "--task", "t", "--name", "e"],
    ]
    at_once: list[int] = []
    finished: list[int] = []
    pool = Inline(lambda job: (at_once.append(len(pool.waiting) + 1), Outcome())[1], slots=8)
    Driver(pool, tmp_path, finished.append, Silent()).run(commands)
    assert at_once[0] == 24
    assert finished[0] == 0
    assert finished[-1] == len(commands) - 1
    assert all(finished.index(0 + 1) < finished.index(i) for i in (9, 10, 11))
    seeds = [job.words[job.words.index("--seeds") + 1] for job in pool.jobs if job.words[0] == "finetune"]
    assert len(seeds) == 8 * 3 + 3
    assert all(job.whole for job in pool.jobs if job.words[0] == "finetune")


@pytest.mark.parametrize(
    ("later", "earlier", "expected"),
    [
        (["finetune", "S", "--init-adapter", "warm", "--name", "x"], arm("warm"), True),
        (["finetune", "S", "--train", "domain", "--name", "x"], arm("domain"), False),  # a data set of that name
        (["finetune", "S", "--train", "d", "--match-tokens=warm.s1", "--name", "x"], arm("warm"), True),
        (["eval", "S", "--run", "random", "--name", "e"], arm("random.s2"), True),
        (["eval", "S", "--run", "randomly", "--name", "e"], arm("random.s2"), False),
        (["featurize", "S", "--adapter", "warm", "--name", "pool"], arm("warm"), True),
        (["featurize", "S", "--name", "pool", "--data", "p"], ["featurize", "S", "--name", "pool"], False),
        (["score", "S", "--pool", "pool=p.jsonl", "--name", "s"], ["featurize", "S", "--name", "pool"], True),
        (["finetune", "S", "--train", "picked=3", "--name", "x"], ["select", "S", "--name", "picked"], True),
    ],
)
def test_what_depends_on_what(later: Sequence[str], earlier: Sequence[str], expected: bool) -> None:
    assert depends(later, earlier) == expected


def test_words_of_a_share() -> None:
    words = ["eval", "S", "--ray", "local", "--export=x.json", "--plot", "p.svg", "--run", "a", "-q", "--json", "-v"]
    assert for_share(words) == ("eval", "S", "--run", "a")
    assert by_seed(arm("x", "--seeds", "0, 2")) == [tuple(arm("x", "--seeds", s)) for s in ("0", "2")]
    assert by_seed(arm("x", "--seed", "3")) == [tuple(arm("x", "--seed", "3"))]
    assert is_shared(["score", "S", "--method", "exact"])
    assert not is_shared(["score", "S", "--method", "mean"])
    assert not is_shared(["score", "S", "--method", "exact", "--method", "mean=m"])


def test_errors_survive_pickling() -> None:
    for error in (
        UsageError("what.", "fix."),
        NtkselError("what.", details=["a"]),
        DataError("w.", "f.", details=["b"]),
    ):
        back = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert (type(back), str(back), back.fix, back.details) == (type(error), str(error), error.fix, error.details)


@pytest.fixture
def data(write_jsonl: Writer) -> dict[str, Path]:
    return {
        "pool": write_jsonl("pool.jsonl", prompt_rows(21, seed=1)),
        "domain": write_jsonl("domain.jsonl", prompt_rows(9, seed=2)),
        "test": write_jsonl("test.jsonl", choice_rows(80)),
    }


def test_shared_features_have_the_bytes_of_one_process(
    cli: Cli, inline: list[Inline], tmp_path: Path, model_dir: Path, data: dict[str, Path]
) -> None:
    words = ["--data", data["pool"], "--name", "pool", "--kind", "embed", "--model", model_dir, "--part-rows", "8"]
    one = cli("featurize", tmp_path / "one", *words, "--json")
    many = cli("featurize", tmp_path / "many", *words, "--json", "--ray", "local")
    assert one.code == many.code == 0, one.err + many.err
    assert json.loads(one.out)["digest"] == json.loads(many.out)["digest"]
    assert len(inline[0].jobs) == 1 + 2
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "many")
    assert cli("featurize", tmp_path / "many", *words, "--ray", "local").code == 0
    assert len(inline[1].jobs) == 1  # finds it finished


def test_a_call_from_python_is_shared(
    inline: list[Inline], tmp_path: Path, model_dir: Path, data: dict[str, Path]
) -> None:
    options: dict[str, Any] = {"kind": "embed", "model": str(model_dir), "part_rows": 8}
    for name in ("pool", "domain"):
        api.featurize(tmp_path / "one", data=data[name], name=name, **options)
        api.featurize(tmp_path / "many", data=[data[name]], name=name, ray="local", **options)
    assert [len(each.jobs) for each in inline] == [1 + 2, 1 + 1]
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "many")
    with pytest.raises(UsageError, match="--ray is for --method exact"):
        api.score(tmp_path / "many", pool="pool", domain="domain", method="mean", name="s", ray="local")
    with pytest.raises(UsageError, match="--shard and --ray"):
        api.featurize(tmp_path / "many", data=data["pool"], name="pool", ray="local", shard=(0, 2), **options)


def test_words_of_a_call() -> None:
    given: dict[str, Any] = {
        "store": "s", "score": ["a", "b"], "model": "m", "domain": "d", "name": "v", "seeds": (0, 1), "bins": "5",
        "thinking": Thinking.OFF, "columns": {"prompt": "q", "completion": "a"}, "average_weights": False,
        "keep_runs": True, "lr": 0.1, "task": None, "quiet": True,
    }  # fmt: skip
    words = ["--score", "a", "--score", "b", "--model", "m", "--domain", "d", "--name", "v", "--seeds", "0,1"]
    words += ["--lr", "0.1", "--no-average-weights", "--thinking", "off", "--columns", "prompt=q,completion=a"]
    found = as_words("validate", {**given, "quiet": False})
    assert found[:2] == ["validate", "s"]
    assert sorted(found[2:]) == sorted([*words, "--keep-runs"])


@pytest.mark.slow
def test_each_verb_gives_the_bytes_of_one_process(
    cli: Cli, inline: list[Inline], tmp_path: Path, model_dir: Path, data: dict[str, Path]
) -> None:
    use = ["--model", model_dir]
    ntk = ["--kind", "ntk", "--dim", "16", *use, "--part-rows", "4", "--rank", "2"]
    commands: list[list[Any]] = [
        ["featurize", "--data", data["pool"], "--name", "pool", *ntk],
        ["featurize", "--data", data["domain"], "--name", "domain", *ntk],
        ["score", "--pool", "pool", "--domain", "domain", "--method", "exact", "--feature", "ntk", "--name", "exact"],
        ["eval", *use, "--run", "base", "--task", data["test"], "--name", "e"],
        ["validate", *use, "--score", "exact", "--domain", data["domain"], "--task", data["test"], "--name", "v",
         "--rows", "3", "--design", "bins", "--bins", "3", "--epochs", "1", "--seeds", "0"],
    ]  # fmt: skip
    for verb, *words in commands:
        if verb == "validate":
            shutil.copytree(tmp_path / "one", tmp_path / "api")
        alone = cli(verb, tmp_path / "one", *words, "--json")
        shared = cli(verb, tmp_path / "many", *words, "--json", "--ray", "local")
        assert alone.code == shared.code == 0, alone.err + shared.err
        known, found = json.loads(alone.out), json.loads(shared.out)
        if verb == "featurize":
            known.update(computed=0, tokens=0)  # by the last process
        assert found == known
        jobs = inline[-1].jobs
        assert len(jobs) > (1 if verb != "score" else 0), verb
    api.validate(
        tmp_path / "api", score=["exact"], model=str(model_dir), domain=str(data["domain"]), task=[str(data["test"])],
        name="v", rows=3, design=Design.BINS, bins="3", epochs=1, seeds=[0], ray="local",
    )  # fmt: skip
    assert len(inline[-1].jobs) > 1
    one, many, called = (arrays_of(tmp_path / name) for name in ("one", "many", "api"))
    assert one == many == called


@pytest.mark.slow
def test_arms_give_the_bytes_of_one_process(
    cli: Cli, inline: list[Inline], tmp_path: Path, model_dir: Path, data: dict[str, Path]
) -> None:
    words = ["--model", model_dir, "--domain", data["domain"], "--pool", data["pool"], "--task", data["test"],
             "-n", "3", "--arms", "base,domain,selected", "--seeds", "0,1",
             "--epochs", "1", "--dim", "16", "--rank", "2"]  # fmt: skip
    one = cli("arms", tmp_path / "one", *words, "--json")
    many = cli("arms", tmp_path / "many", *words, "--json", "--ray", "local")
    assert one.code == many.code == 0, one.err + many.err
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "many")
    known, found = json.loads(one.out), json.loads(many.out)
    assert found["scores"] == known["scores"]
    assert sum(job.whole for job in inline[-1].jobs) == 1 + 2 * 2  # the warm-up, two arms of two seeds


def test_options_that_ray_cant_share(cli: Cli, tmp_path: Path) -> None:
    on = ["--data", "d.jsonl", "--name", "p", "--kind", "embed", "--model", "m", "--ray", "local"]
    for words, message in (
        (["featurize", tmp_path / "s", *on, "--shard", "0/2"], "--shard and --ray both share"),
        (["featurize", tmp_path / "s", *on[2:], "--data", "-"], "Standard input is not there"),
        (["featurize", tmp_path / "s", *on, "--device", "cuda:1"], "Ray gives each job its GPU"),
        (
            ["score", tmp_path / "s", "--pool", "p", "--method", "mean", "--name", "s", "--ray", "x"],
            "for --method exact",
        ),
    ):
        ran = cli(*words)
        assert ran.code == 2
        assert message in ran.error_line
    assert not (tmp_path / "s").exists()


def test_nothing_of_ray_is_imported_without_the_option() -> None:
    """One file imports it, within functions that only `--ray` calls."""
    import ntkcli

    pattern = re.compile(r"^( *)(?:import|from) ray\b", re.MULTILINE)
    found = {
        path.name: [len(indent) for indent in pattern.findall(path.read_text(encoding="utf-8"))]
        for path in Path(ntkcli.__file__).parent.rglob("*.py")
    }
    assert {name for name, indents in found.items() if indents} == {"ray_pool.py"}
    assert min(found["ray_pool.py"]) > 0


@pytest.mark.parametrize(
    ("model", "gpu", "bounded", "share"),
    [(16 << 30, 80 << 30, True, 1.0), (1 << 30, 80 << 30, True, 1 / 8), (4 << 30, 80 << 30, True, 1 / 4),
     (1 << 30, 80 << 30, False, 1.0), (1 << 30, 0, True, 1.0)],
)  # fmt: skip
def test_several_jobs_on_one_gpu_only_where_they_fit(model: int, gpu: int, bounded: bool, share: float) -> None:
    assert gpu_share(model, gpu, bounded=bounded) == share


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "0.0.1"}, "host has ntksel 0.0.1"),
        ({"has_folder": False}, "host has no folder"),
        ({"sees_token": False}, "is not shared: host"),
        ({"reply": ""}, "is not shared: "),
        ({"missing": ("pool.jsonl",)}, "host does not have pool.jsonl"),
        ({"model_error": "m: there is no m"}, "host does not have the model m: there is no m"),
        ({"models": ("other",)}, "on host is not the one here"),
    ],
)
def test_what_a_machine_lacks_is_named(tmp_path: Path, model_dir: Path, change: dict[str, Any], message: str) -> None:
    stored = store.Store.open_or_create(tmp_path / "s", made_by="test")
    question = ask(stored, ["featurize", str(tmp_path / "s")], [str(model_dir)])
    answer = look(question)
    assert Path(answer.reply).read_text() == question.token
    if "reply" in change:
        Path(answer.reply).unlink()
    with pytest.raises(NtkselError, match=message):
        refuse_unfit(question, [answer, dataclasses.replace(answer, host="host", **change)], stored.path)
    assert list(stored.scratch.folder.iterdir()) == []
    fine = ask(stored, [], [str(model_dir)])
    refuse_unfit(fine, [look(fine)], stored.path)


def test_a_machine_with_another_file_of_the_same_name(tmp_path: Path, write_jsonl: Writer) -> None:
    stored = store.Store.open_or_create(tmp_path / "s", made_by="test")
    path = write_jsonl("d.jsonl", prompt_rows(3))
    question = ask(stored, ["featurize", "s", f"--data={path}", "--name", "x" * 300], [])
    assert question.files == ((str(path), path.stat().st_size),)
    path.write_text("{}\n")
    assert look(question).missing == (str(path),)

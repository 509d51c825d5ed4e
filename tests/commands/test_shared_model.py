"""--shard-model: two processes hold one model together, and compute what one that holds it whole computes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune
from tests.commands import models_of_two
from tests.commands.conftest import Cli
from tests.commands.test_training_ranks import torchrun
from tests.conftest import choice_rows, prompt_rows, write_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
ARTEFACTS = [
    *(f"features/d/{name}" for name in models_of_two.FEATURES),
    "scores/exact",
    "evals/eval/base",
    "evals/eval/run",
]
ROUNDED = ("adapted", "embed", "exact", "run")
"""Where an adapter is merged into the whole float32 weights: beside weights that are shared it rounds otherwise."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> tuple[Path, Path, str]:
    """The store of one process, that of two, and what the two printed."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(model_dir, folder / "model")
    write_rows(folder / "d.jsonl", prompt_rows(21))
    write_rows(folder / "t.jsonl", choice_rows(8))
    write_rows(folder / "w.jsonl", prompt_rows(5, seed=1))
    one, two = folder / "one", folder / "two"
    finetune(one, model=str(folder / "model"), train=[str(folder / "d.jsonl")], name="run", epochs=1, lr=0.01)
    shutil.copytree(one, two)
    shown = torchrun("-m", "tests.commands.models_of_two", str(two))
    models_of_two.alone(one)
    return one, two, shown


@pytest.mark.parametrize("name", ARTEFACTS)
def test_what_two_compute_is_what_one_computes(stores: tuple[Path, Path, str], name: str) -> None:
    """Bit for bit where the same kernels run."""
    one, two = (open_store(path).get(name) for path in stores[:2])
    assert two.complete
    assert two.fingerprint == one.fingerprint
    if not name.endswith(ROUNDED):
        assert two.digest() == one.digest()
        return
    for array in one.arrays:
        expected, found = one.read(array), two.read(array)
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=array)
        else:
            assert (found == expected).all(), array


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard-model"], "--shard-model shares a model between processes, and this is the only one. Start it under"),
        (["--shard-model", "--shard", "0/2"], "--shard and --shard-model"),
        (["--shard-model", "--dry-run"], "--shard-model does not apply to --dry-run"),
        (["--shard-model", "--ray", "local"], "--shard-model is for processes of torchrun or srun, and --ray starts"),
    ],
)
@pytest.mark.parametrize("verb", ["featurize", "eval", "score"])
def test_where_it_does_not_apply_it_is_refused(
    tmp_path: Path, model_dir: Path, cli: Cli, verb: str, words: list[str], message: str
) -> None:
    given: dict[str, list[str | Path]] = {
        "featurize": ["--data", "d.jsonl", "--name", "d", "--kind", "ntk", "--model", model_dir],
        "eval": ["--task", "d.jsonl", "--name", "d", "--run", "base", "--model", model_dir],
        "score": ["--pool", "d", "--domain", "d", "--method", "exact", "--name", "x"],
    }
    ran = cli(verb, tmp_path / "s", *given[verb], *words)
    assert ran.code == 2
    unknown = (verb, words[-1]) in {("eval", "0/2"), ("score", "0/2"), ("score", "--dry-run")}
    assert ("No such option" if unknown else message) in ran.error_line
    assert not (tmp_path / "s").exists()


def test_scores_that_take_no_model_refuse_it(tmp_path: Path, cli: Cli) -> None:
    ran = cli("score", tmp_path / "s", "--compare", "a", "--compare", "b", "--shard-model")
    assert ran.code == 2
    assert "--shard-model is for --method exact" in ran.error_line


def test_each_process_holds_its_share_alone(stores: tuple[Path, Path, str]) -> None:
    """Of the weights in the decoder's blocks a half in each; the others whole in both."""
    assert stores[2].splitlines() == ["[0.5, 1.0]"] * 2

"""`ntksel diagnose`: what it prints and writes, its exit codes, and what each of its options does."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.engine.models import loading, speed
from ntkcli.errors import UsageError
from ntkcli.steps.diagnosis import supply
from ntkcli.steps.diagnosis.diagnose import STEPS, costs, diagnose
from ntkcli.steps.diagnosis.request import NEEDS, USES, Request, check_request
from ntkcli.steps.diagnosis.vectors import feature_spec
from ntkcli.steps.shared.stores import open_store
from tests.app_commands import COMMANDS
from tests.commands.conftest import Cli
from tests.conftest import CHATML, prompt_rows, write_rows
from tests.steps.diagnosis.kit import half_domain

CHECK_KEYS = {"name", "subject", "value", "low", "high", "sentence", "details"}
SWITCH = "{% if enable_thinking is defined %}{{ '[' ~ enable_thinking ~ ']' }}{% endif %}"
SHOWN = {"store", "check", "plot", "force", "dry_run", "json", "quiet", "verbose"}


def digit_rows(n: int, *, seed: int) -> list[dict[str, Any]]:
    """Rows unlike `prompt_rows`: of digits."""
    draw = np.random.default_rng(seed)
    return [
        {
            "id": f"digits-{seed}-{i}",
            "prompt": " ".join(map(str, draw.integers(0, 10**6, 5))),
            "completion": str(draw.integers(0, 10**6)),
        }
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A domain of digits, and a pool of which half are digits."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "domain": write_rows(folder / "domain.jsonl", digit_rows(20, seed=1)),
        "pool": write_rows(folder / "pool.jsonl", [*digit_rows(30, seed=2), *prompt_rows(30)]),
    }


def words(files: dict[str, Path], model: Path) -> list[str]:
    return ["--pool", str(files["pool"]), "--domain", str(files["domain"]), "--model", str(model)]


def test_supply_by_embeddings_computed_now(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store_path, picture = tmp_path / "s", tmp_path / "supply.svg"
    command = ["diagnose", store_path, "supply", *words(files, model_dir), "-n", "12"]
    dry = cli(*command, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    (cost,) = json.loads(dry.out)["costs"]
    assert cost["rows"] == 80
    assert cost["passes"] == 0
    assert not store_path.exists()
    ran = cli(*command, "--json", "--plot", picture)
    assert ran.code == 0, ran.err
    assert "supply: 80 rows" in ran.err  # the cost, before
    result = json.loads(ran.out)
    assert result.keys() == {"checks", "left_out", "skipped"}
    (check,) = result["checks"]
    assert check.keys() == CHECK_KEYS
    assert check["low"] <= check["value"] <= check["high"]
    assert 24 <= check["value"] <= 33
    assert check["details"]["enough"] == "yes"
    assert "<svg" in picture.read_text()
    made = [artefact.name for artefact in open_store(store_path).artefacts()]
    assert [re.sub("-[0-9a-f]{12}$", "", name) for name in made] == ["diagnoses/supply", "diagnoses/supply-result"]
    monkeypatch.setattr(loading, "load_model", None)  # the same again needs no model
    again = cli(*command)
    assert again.code == 0, again.err
    assert check["sentence"] in again.out
    assert cli("info", store_path, "--verify").code == 0
    assert [artefact.name for artefact in open_store(store_path).artefacts()] == made  # and is the same result
    assert cli("rm", store_path, made[0]).code == 0


def test_rows_that_cannot_be_used(cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path]) -> None:
    lines = [*files["pool"].read_text().splitlines(keepends=True), "{broken\n"]
    broken = write_rows(tmp_path / "broken.jsonl", lines)
    command = ["diagnose", tmp_path / "s", "supply", *words({**files, "pool": broken}, model_dir)]
    assert cli(*command).code == 1
    ran = cli(*command, "--on-error", "skip")
    assert ran.code == 0, ran.err  # the rows that are drawn can all be used
    assert "of the 60 rows" in ran.out


def test_length_of_every_score_and_all_without_a_model(cli: Cli, tmp_path: Path) -> None:
    store_path = half_domain(tmp_path)
    for method in ("cosine", "max"):
        ran = cli("score", store_path, "--pool", "pool", "--domain", "domain", "--feature", "made", "--method", method,
                  "--name", method)  # fmt: skip
        assert ran.code == 0, ran.err
    ran = cli("diagnose", store_path, "all", "--pool", "pool", "--domain", "domain", "--feature", "made", "--json",
              "--plot", tmp_path / "all.png")  # fmt: skip
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert [check["subject"] for check in result["checks"]] == ["cosine", "max", "pool"]
    assert result["left_out"].keys() == {"kernel", "sketch", "stability", "regression"}
    assert "--model" in result["left_out"]["kernel"]
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    dry = cli("diagnose", store_path, "all", "--pool", "pool", "--domain", "domain", "--feature", "made", "--dry-run")
    assert "length: reads what is stored, no model runs" in dry.out
    assert "stability: left out, it needs --run" in dry.out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["length", "--near", "5"], "--near does not apply to diagnose length. It is for supply."),
        (["supply", "--pool", "pool"], "--domain and --model or --feature is missing"),
        (["length", "--plot", "x.gif"], "Give a name in .png or .svg."),
        (["sketch", "--dims", "0,5"], "--dims 0,5: expected whole numbers"),
        (["supply", "--pool", "p", "--domain", "d", "--feature", "f", "--model", "m"], "Give one of them."),
        (["supply", "--near", "100", "--pool", "p", "--domain", "d", "--feature", "f"], "--near 100 is not a valid"),
    ],
)
def test_what_cannot_be_done(cli: Cli, tmp_path: Path, given: list[str], said: str) -> None:
    open_store(tmp_path / "s", create=True)
    ran = cli("diagnose", tmp_path / "s", *given)
    assert ran.code == 2, ran.err
    assert said in ran.error_line


def test_a_picture_is_not_written_over_the_users_files(cli: Cli, tmp_path: Path) -> None:
    store_path = half_domain(tmp_path)
    picture = tmp_path / "p.svg"
    picture.write_text("mine")
    command = ["diagnose", store_path, "supply", "--pool", "pool", "--domain", "domain", "--feature", "made"]
    assert cli(*command, "--plot", picture).code == 2
    assert picture.read_text() == "mine"
    assert cli(*command, "--plot", picture, "--force").code == 0
    assert cli(*command, "--plot", picture).code == 0  # one of ours
    assert cli("diagnose", tmp_path / "none", "length").code == 10


def test_every_option_is_one_of_a_diagnosis_or_of_the_output() -> None:
    options = {str(p.name) for p in COMMANDS["diagnose"].params}
    used = set().union(*USES.values())
    assert options - SHOWN - {"help"} == used
    assert used == {field for field in Request.__dataclass_fields__ if field != "store_path"}
    assert STEPS.keys() == USES.keys() == NEEDS.keys()
    for check, uses in USES.items():
        assert set(NEEDS[check]) <= uses
        for other in used - uses:
            with pytest.raises(UsageError, match="does not apply to diagnose"):
                check_request(check, {other: 1})


CHANGES = {
    "model": "other", "max_length": 40, "thinking": True, "dtype": "bfloat16", "adapter": "adapter", "rows": 7,
    "domain_rows": 11, "seed": 1, "columns": {"prompt": "completion", "completion": "prompt"}, "pool": "domain",
    "domain": "pool",
}  # fmt: skip
SAME = {"batch_tokens": 64, "device": "cpu", "near": 10.0, "n": 5, "on_error": "skip", "trust_remote_code": True}
ELSEWHERE = {"feature", "split"}
"""features of the store: no model; a split is of folders, as tests/commands/test_data.py has it."""


def test_what_changes_a_value_is_in_the_name_of_what_is_kept(
    tmp_path: Path, model_dir: Path, other_model_dir: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model: the settings and rows that a diagnosis would compute, by option."""

    class Caught(Exception):  # noqa: N818
        pass

    def catch(
        _: Any, check: str, sides: Any, *, request: Any, setup: Any, adapter: Any, settings: Any, **__: Any
    ) -> Any:
        spec = {**feature_spec(request, setup, settings, adapter), "sides": [side.spec for side in sides]}
        raise Caught(check, json.dumps(spec, sort_keys=True))

    monkeypatch.setattr(supply, "vectors", catch)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    import safetensors.numpy

    safetensors.numpy.save_file({"w": np.zeros(2)}, tmp_path / "adapter/adapter_model.safetensors")
    shutil.copytree(model_dir, tmp_path / "m")
    (tmp_path / "m/chat_template.jinja").write_text(SWITCH + CHATML)
    usual: dict[str, Any] = {"model": str(tmp_path / "m"), **{name: str(path) for name, path in files.items()}}
    places = {"other": str(other_model_dir), "adapter": str(tmp_path / "adapter"), **usual}

    def computed(**more: Any) -> str:
        given = {**usual, **{name: places.get(value, value) if isinstance(value, str) else value
                             for name, value in more.items()}}  # fmt: skip
        with pytest.raises(Caught) as caught:
            supply.supply(Request(tmp_path / "s", **given), progress=Nothing())
        return str(caught.value.args)

    assert {*CHANGES, *SAME, *ELSEWHERE} == USES["supply"]
    before = computed()
    for option, value in CHANGES.items():
        assert computed(**{option: value}) != before, option
    for option, value in SAME.items():
        assert computed(**{option: value}) == before, option


class Nothing:
    """No progress."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


def test_the_other_options_reach_what_they_are_for(
    tmp_path: Path, model_dir: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"model": str(model_dir), **{name: str(path) for name, path in files.items()}}
    rows = [costs(tmp_path / "s", check=check, **given).costs[0].rows for check in ("kernel", "sketch")]
    assert rows == [12, 68]
    monkeypatch.setattr(speed, "operations_per_second", lambda _: 1.0)
    seconds = {
        layers: costs(tmp_path / "s", check="kernel", layers=layers, **given).costs[0].seconds
        for layers in ("all", "1", "last:1", "0,1")
    }
    half = (2 + 50 * 2.3 / 2) / (2 + 50 * 2.3)  # a backward through one of two blocks
    assert [seconds[layers] / seconds["all"] for layers in seconds] == pytest.approx([1, half, half, 1])
    with pytest.raises(UsageError, match="--layers 9"):
        diagnose(tmp_path / "s", check="sketch", layers="9", probe="sum", dims=(64,), **given)

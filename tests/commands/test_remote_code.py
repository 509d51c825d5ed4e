"""Code that a model's folder brings: never run nor asked about without --trust-remote-code; with it, in the spec."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows, save_model

CONFIGURATION = """
from pathlib import Path
from transformers import LlamaConfig

Path(__file__).with_name("was run").touch()
Path({marker!r}).touch()

class OwnConfig(LlamaConfig):
    model_type = "own-llama"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny Llama under a name that only its own code knows; running that code makes the file `ran` beside it."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save_model(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own-llama",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_own.py").write_text(CONFIGURATION.format(marker=str(tmp_path / "ran")))
    (folder / "modeling_own.py").write_text(MODELING)
    return folder


def commands(tmp_path: Path, model: Path, write_jsonl: Writer) -> list[list[str | Path]]:
    data, test = write_jsonl("d.jsonl", prompt_rows(4)), write_jsonl("t.jsonl", choice_rows(4))
    on: list[str | Path] = ["--model", model]
    return [
        ["featurize", tmp_path / "s", "--data", data, "--name", "d", "--kind", "ntk", "--dim", "64", *on],
        ["featurize", tmp_path / "s", "--data", data, "--name", "d", "--kind", "embed", "--dry-run", *on],
        ["finetune", tmp_path / "s", "--train", data, "--name", "r", "--epochs", "1", *on],
        ["eval", tmp_path / "s", "--run", "base", "--task", test, "--name", "e", *on],
        ["info", "--data", data, *on],
    ]


def test_it_is_not_run_and_nobody_is_asked(
    cli: Cli, tmp_path: Path, own_model: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    for command in commands(tmp_path, own_model, write_jsonl):
        ran = cli(*command)
        assert ran.code == 2, (command[0], ran.err)
        assert "transformers can't load it without the Python code that it brings" in ran.error_line
        assert "--trust-remote-code" in ran.error_line
    assert not (tmp_path / "ran").exists()


def test_with_the_flag_the_spec_says_so(cli: Cli, tmp_path: Path, own_model: Path, write_jsonl: Writer) -> None:
    for command in commands(tmp_path, own_model, write_jsonl):
        ran = cli(*command, "--trust-remote-code")
        assert ran.code == 0, (command[0], ran.err)
    assert (tmp_path / "ran").exists()
    import zarr

    arrays = zarr.open_group(tmp_path / "s/arrays.zarr", mode="r")
    for name in ("features/d/ntk", "runs/r", "evals/e/base"):
        assert len(arrays[name].attrs["spec"]["model"]["remote_code"]) == 32
    (own_model / "modeling_own.py").write_text(MODELING + "\n# changed\n")
    os.utime(own_model / "modeling_own.py", (1, 1))
    ran = cli(*commands(tmp_path, own_model, write_jsonl)[0], "--trust-remote-code")
    assert ran.code == 12
    assert "model.remote_code was" in ran.error_line
    assert "--trust-remote-code" in ran.error_line


def test_the_flag_changes_nothing_for_a_model_without_code(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    command = commands(tmp_path, model_dir, write_jsonl)[0]
    assert cli(*command).code == 0
    ran = cli(*command, "--trust-remote-code", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["computed"] == 0

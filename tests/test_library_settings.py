"""Environment variables of libraries change no value: the same bytes with and without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ntkcli.library_settings import without_library_settings
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.training.finetune import finetune
from tests.conftest import Writer, prompt_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it

SETTINGS = {
    "mixed precision": {"ACCELERATE_MIXED_PRECISION": "bf16"},
    "mixed precision of float16": {"ACCELERATE_MIXED_PRECISION": "fp16"},
    "accumulation": {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"},
    "FSDP": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "DeepSpeed": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
    "Megatron": {"ACCELERATE_USE_MEGATRON_LM": "true"},
    "compiler": {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
    "a device": {"ACCELERATE_TORCH_DEVICE": "meta"},
    "kernels": {"USE_HUB_KERNELS": "YES", "TRANSFORMERS_SDPA_FORCE_GQA": "1", "TORCH_LINEAR_FLATTEN_3D": "1"},
    "a rank": {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"},
    "mpirun": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
}


def train(store: Path, model: Path, data: Path) -> bytes:
    """The adapter's bytes after some steps."""
    made = finetune(store, model=str(model), train=[str(data)], name="r", epochs=2, batch_size=4, lr=1e-2)
    return (Path(made.adapter) / "adapter_model.safetensors").read_bytes()


def features(store: Path, model: Path, data: Path) -> str:
    """The digest of gradients."""
    return featurize(store, data=data, name="d", kind="ntk", model=str(model), dim=64).digest


@pytest.fixture
def data(write_jsonl: Writer) -> Path:
    return write_jsonl("d.jsonl", prompt_rows(12))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> tuple[bytes, str]:
    """What comes out without any of them."""
    from tests.conftest import write_rows

    folder = tmp_path_factory.mktemp("plain")
    rows = write_rows(folder / "d.jsonl", prompt_rows(12))
    return train(folder / "s", model_dir, rows), features(folder / "s", model_dir, rows)


@pytest.mark.parametrize("name", SETTINGS)
def test_values(
    tmp_path: Path, model_dir: Path, data: Path, plain: tuple[bytes, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in SETTINGS[name].items():
        monkeypatch.setenv(variable, value)
    before = dict(os.environ)
    assert train(tmp_path / "s", model_dir, data) == plain[0]
    assert features(tmp_path / "s", model_dir, data) == plain[1]
    assert {k: v for k, v in os.environ.items() if k in before} == before


def test_one_training_leaves_nothing_for_the_next(
    tmp_path: Path, model_dir: Path, data: Path, plain: tuple[bytes, str]
) -> None:
    """In bfloat16 first; libraries keep such settings in the environment or in the process."""
    before = dict(os.environ)
    settings = {"train": [str(data)], "name": "half", "epochs": 1, "dtype": "bfloat16"}
    finetune(tmp_path / "s", model=str(model_dir), **settings)  # type: ignore[arg-type]
    assert dict(os.environ) == before
    assert train(tmp_path / "s", model_dir, data) == plain[0]


def test_the_environment_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("RANK", "1")
    before = dict(os.environ)
    with without_library_settings() as taken:
        assert {"ACCELERATE_MIXED_PRECISION", "RANK"} <= set(taken)
        assert not set(taken) & set(os.environ)
        os.environ["ACCELERATE_USE_FSDP"] = "true"
    assert dict(os.environ) == before
    with without_library_settings(ranks=False):
        assert os.environ["RANK"] == "1"


def test_what_libraries_read_is_known() -> None:
    """A new release that reads a new switch of accelerate's is found here: its names all begin as ours say."""
    import re

    import accelerate

    folder = Path(accelerate.__file__).parent
    sources = [folder / f"{name}.py" for name in ("accelerator", "state", "utils/dataclasses", "utils/environment")]
    found = {
        name
        for path in sources
        for name in re.findall(r"environ(?:\.get)?[\[(]\s*f?\"([A-Z][A-Z0-9_]+)\"", path.read_text(encoding="utf-8"))
    }
    assert len(found) > 5
    machine = {
        "OMP_NUM_THREADS",
        "KMP_AFFINITY",
        "KMP_BLOCKTIME",
        "PYTORCH_ENABLE_MPS_FALLBACK",
        "FOO",
    }  # FOO: of a docstring
    with pytest.MonkeyPatch.context() as patch:
        for name in found:
            patch.setenv(name, "1")
        with without_library_settings() as taken:
            left = found - set(taken) - machine
    assert left == set()

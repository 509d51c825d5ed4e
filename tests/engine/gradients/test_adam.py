"""Adam's directions (`featurize --adam`): LESS's formula on a row's whole gradient, before any projection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ntkcli.engine.gradients.adam import load_moments
from ntkcli.errors import SpecError
from tests.engine.kit import (
    RANK,
    adapter_layers,
    dense_sketch,
    load,
    make_engine,
    make_rows,
    norm_of,
    one_row_loop,
    save_moments,
)


@pytest.mark.parametrize("name", ["llama", "gpt2_conv1d"])
def test_adams_steps_equal_a_one_row_loop(name: str, tmp_path: Path) -> None:
    """LESS's formula on whole gradients in float64, sketched afterwards; the moments read from a file."""
    rows = make_rows([5, 12, 3, 9])
    loaded = load(name)
    layers = adapter_layers(loaded.model, warm=True)
    held, path = save_moments(layers, tmp_path)
    moments = load_moments(path, layers, loaded.device)
    found = make_engine(loaded, layers, probe="loss", moments=moments).features(rows, positions="targets")

    def step(gradient: np.ndarray, key: str) -> np.ndarray:
        m, v = (held[f"{key}.{which}"].double().numpy() for which in ("exp_avg", "exp_avg_sq"))
        m, v = (m.T, v.T) if key.endswith("lora_B") else (m, v)
        taken: np.ndarray = (0.8 * m + 0.2 * gradient) / np.sqrt(0.95 * v + 0.05 * gradient**2 + 0.001)
        return taken

    for i, gradients in enumerate(one_row_loop(name, layers, rows, "loss")):
        steps = {n: (step(a, f"{n}.lora_A"), step(b, f"{n}.lora_B")) for n, (a, b) in gradients.items()}
        norm = norm_of(steps)
        assert float(found.norm[i]) == pytest.approx(norm, rel=2e-4)
        np.testing.assert_allclose(found.sketch[i].numpy(), dense_sketch(steps) / norm, atol=2e-5)


def test_moments_of_another_adapter_are_refused(tmp_path: Path) -> None:
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    path = tmp_path / "optimizer.safetensors"
    said = {"beta1": "0.9", "beta2": "0.999", "eps": "1e-8"}
    key = f"{layers[0].name}.lora_A"
    for tensors, text in (
        ({"x": torch.zeros(1)}, f"no moments of {key}"),
        ({f"{key}.{m}": torch.zeros(RANK + 1, 32) for m in ("exp_avg", "exp_avg_sq")}, r"are \(4, 32\)"),
    ):
        save_file(tensors, path, metadata=said)
        with pytest.raises(SpecError, match=text):
            load_moments(path, layers, loaded.device)
    with pytest.raises(SpecError, match="never trained"):
        load_moments(path, adapter_layers(loaded.model, warm=False), loaded.device)

"""What only the study's scripts (benchmarks/study) compute, against plain loops."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "study"))

from jacobian_free import output_cosines

from tests.engine.kit import adapter_layers, load, make_rows
from tests.engine.test_trace_kernels import output_gradients


def test_output_cosines_are_those_of_single_gradients() -> None:
    (row,) = make_rows([7])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    gradients_Vp = output_gradients(layers, row)
    chosen = np.random.default_rng(3).choice(len(gradients_Vp), size=5, replace=False)
    found = output_cosines(loaded, layers, row, 5, seed=3)
    mean_p = gradients_Vp.mean(axis=0)
    for name, expected in (("as they are", gradients_Vp), ("mean output removed", gradients_Vp - mean_p)):
        unit = expected[chosen] / np.linalg.norm(expected[chosen], axis=1, keepdims=True)
        np.testing.assert_allclose(found[name], unit @ unit.T, atol=1e-5)

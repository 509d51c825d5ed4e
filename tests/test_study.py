"""The mathematics of the study's scripts (benchmarks/study) against plain loops."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "study"))

from jacobian_free import output_cosines, trace_kernels
from kernel_features import agreement, best_penalty, forms, leave_one_out, ridge

from ntkcli.data.encoding import Encoded
from ntkcli.engine.models.adapters import AdaptedLayer
from tests.engine import zoo
from tests.engine.kit import PlainLora, adapter_layers, load, make_rows


def test_trace_kernels_are_the_sum_over_all_outputs() -> None:
    """D backward passes through the engine against one autograd pass for each of the V outputs, in float64."""
    rows = make_rows([5, 9, 4])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    gradients_VBp = np.stack([output_gradients(layers, row) for row in rows], axis=1)
    trace, centred, total, _ = trace_kernels(loaded, layers, rows)
    np.testing.assert_allclose(trace, np.einsum("vip,vjp->ij", gradients_VBp, gradients_VBp), rtol=1e-4)
    summed_Bp = gradients_VBp.sum(axis=0)
    np.testing.assert_allclose(total, summed_Bp @ summed_Bp.T, rtol=1e-4)
    centred_VBp = gradients_VBp - gradients_VBp.mean(axis=0)
    np.testing.assert_allclose(centred, np.einsum("vip,vjp->ij", centred_VBp, centred_VBp), rtol=1e-4)


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


def output_gradients(layers: list[AdaptedLayer], row: Encoded) -> np.ndarray:
    """Of every output's mean over the completion's positions, by plain autograd in float64: (V, P)."""
    model = zoo.build_double("llama")
    wanted = []
    for layer in layers:
        parent, _, name = layer.name.rpartition(".")
        plain = PlainLora(model.get_submodule(layer.name), layer.weight, layer, torch.float64)
        setattr(model.get_submodule(parent), name, plain)
        wanted += [plain.a, plain.b]
    logits = model(input_ids=torch.tensor(row.ids.astype(np.int64))[None]).logits[0]
    means_V = logits[:-1][torch.tensor(row.supervised[1:])].mean(dim=0)
    each = (torch.autograd.grad(mean, wanted, retain_graph=True) for mean in means_V)
    return np.stack([torch.cat([gradient.flatten() for gradient in one]).numpy() for one in each])


def test_forms_are_those_of_the_features() -> None:
    features = np.random.default_rng(0).normal(1.0, 1.0, (9, 20))
    pool = np.arange(3, 9)
    found = forms(features @ features.T, pool)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    left = unit - unit[pool].mean(axis=0)
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    np.testing.assert_allclose(found["cosine"], unit @ unit.T, atol=1e-12)
    np.testing.assert_allclose(found["centred"], left @ left.T, atol=1e-12)


def test_a_kernel_agrees_with_its_multiple_and_not_with_its_opposite() -> None:
    features = np.random.default_rng(1).normal(size=(12, 30))
    kernel, (domain, pool) = features @ features.T, (np.arange(4), np.arange(4, 12))
    same = agreement(3 * kernel, kernel, domain=domain, pool=pool)
    assert (same.cos_f, same.pearson, same.spearman, same.overlap) == pytest.approx((1, 1, 1, 1))
    other = agreement(-kernel, kernel, domain=domain, pool=pool)
    assert (other.cos_f, other.pearson, other.spearman, other.overlap) == pytest.approx((-1, -1, -1, 0))


def test_leave_one_out_is_a_loop_that_leaves_each_row_out() -> None:
    draw = np.random.default_rng(2)
    features, y = draw.normal(size=(11, 4)), np.eye(3)[draw.integers(0, 3, 11)]
    kernel = features @ features.T + 1
    for penalty in (0.01, 1.0, 30.0):
        expected = []
        for i in range(11):
            rest = np.delete(np.arange(11), i)
            expected.append(ridge(kernel[np.ix_(rest, rest)], kernel[np.ix_([i], rest)], y[rest], penalty)[0])
        np.testing.assert_allclose(leave_one_out(kernel, y, penalty), expected, atol=1e-9)


def test_the_penalty_is_high_for_noise_and_low_for_what_can_be_learnt() -> None:
    draw = np.random.default_rng(4)
    features = draw.normal(size=(40, 3))
    kernel = features @ features.T
    assert best_penalty(kernel, features @ draw.normal(size=(3, 2))) < 1e-4
    assert best_penalty(kernel, draw.normal(size=(40, 2))) > 1

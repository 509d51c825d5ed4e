"""The exact trace kernel, and sketches against exact kernel values: against autograd through every output."""

from __future__ import annotations

import numpy as np
import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.features.sketched_kernels import SketchedKernels
from ntkcli.engine.features.trace_kernels import read_head
from ntkcli.engine.models.adapters import AdaptedLayer
from ntkcli.engine.models.loading import head_of
from tests.engine import zoo
from tests.engine.kit import PlainLora, adapter_layers, load, make_rows, one_row_loop, trace_kernels


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


def test_the_head_is_as_much_one_direction_as_its_rows_are() -> None:
    loaded = load("llama")
    weight = head_of(loaded.model).weight
    with torch.no_grad():
        weight += 0.1  # a direction that all rows share
    rows = weight.detach().double().numpy()
    head = read_head(loaded)
    total = (rows**2).sum()
    np.testing.assert_allclose(head.mean_share, len(rows) * (rows.mean(axis=0) ** 2).sum() / total)
    np.testing.assert_allclose(head.first_share, np.linalg.svd(rows, compute_uv=False)[0] ** 2 / total)
    centred = rows - rows.mean(axis=0)
    columns = head.columns.numpy()
    np.testing.assert_allclose(columns @ columns.T, centred.T @ centred, atol=1e-9 * total)


def test_exact_kernel_values_are_those_of_a_loop_and_sketches_come_near() -> None:
    rows = make_rows([5, 9, 4, 12, 7])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    loop = one_row_loop("llama", layers, rows, "completion")
    flat = np.stack([np.concatenate([g.ravel() for pair in one.values() for g in pair]) for one in loop])
    engine = SketchedKernels(loaded, layers, probe="sum", sketches=[(64, 0), (1 << 14, 0)], batch_tokens=16)
    engine.learn(rows[:2], on_batch=lambda *_: None)
    exact, rough, fine = engine.kernels(rows[2:], on_batch=lambda *_: None)
    expected = flat[2:] @ flat[:2].T
    np.testing.assert_allclose(exact, expected, rtol=2e-4)
    errors = [np.linalg.norm(found - expected) / np.linalg.norm(expected) for found in (rough, fine)]
    assert errors[1] < 0.05 < errors[0] < 1

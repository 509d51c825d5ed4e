"""Per-example gradients against a loop that knows nothing of the engine: one row, autograd, real LoRA parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntkcli.engine.gradients.probes import LogitProbe, direction
from ntkcli.engine.gradients.projections import dense_signs, make_projection
from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.models.adapters import AdaptedLayer, fresh_adapter, linear_layers, only_layers
from ntkcli.errors import UsageError
from tests.engine.kit import (
    DIM,
    RANK,
    SEED,
    adapter_layers,
    assert_equal,
    dense_sketch,
    load,
    make_engine,
    make_rows,
    norm_of,
    one_row_loop,
)


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "warmed"])
@pytest.mark.parametrize("positions", ["completion", "all", "last"])
@pytest.mark.parametrize("name", ["llama", "gemma2_softcap", "gpt2_conv1d"])
def test_features_equal_a_one_row_loop(name: str, positions: str, warm: bool) -> None:
    """Every kind of position; every architecture: test_architectures.py."""
    rows = make_rows([5, 12, 3, 9])
    loaded = load(name)
    layers = adapter_layers(loaded.model, warm=warm)
    expected = one_row_loop(name, layers, rows, positions)
    found = make_engine(loaded, layers, dim=DIM).features(rows, positions=positions)
    assert_equal(found, expected)


def test_fresh_adapter_has_no_gradient_for_a() -> None:
    loaded = load("llama")
    layers = fresh_adapter(loaded.model, rank=RANK, target_modules="all-linear", seed=1)
    for gradients in one_row_loop("llama", layers, make_rows([7]), "all"):
        assert all(not grad_a.any() for grad_a, _ in gradients.values())
    assert all(layer.b is None for layer in layers)


def test_features_do_not_depend_on_batch_padding_or_order() -> None:
    loaded = load("llama")
    engine = make_engine(loaded, adapter_layers(loaded.model, warm=True), dim=DIM)
    rows = make_rows([4, 20, 9, 6, 13])
    together = engine.features(rows, positions="completion")
    for order in ([4, 2, 0, 1, 3], [3], [0, 1]):
        found = engine.features([rows[i] for i in order], positions="completion")
        np.testing.assert_allclose(found.sketch, together.sketch[order], atol=2e-6)
        np.testing.assert_allclose(found.norm, together.norm[order], rtol=1e-5)


def test_wide_layers_are_cut_into_segments() -> None:
    """A layer wider than the sketch: every segment has an offset of its own."""
    rows = make_rows([6, 4])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    expected = one_row_loop("llama", layers, rows, "all")
    dim = 16  # the model is 32 wide
    found = make_engine(loaded, layers, dim=dim).features(rows, positions="all")
    for i, gradients in enumerate(expected):
        sketch = dense_sketch(gradients, dim) / norm_of(gradients)
        np.testing.assert_allclose(found.sketch[i].numpy(), sketch, atol=2e-5)


def test_bfloat16_is_near_float32() -> None:
    rows = make_rows([12, 8, 5])
    exact = load("llama")
    reference = make_engine(exact, adapter_layers(exact.model, warm=True), dim=DIM)
    half = load("llama", torch.bfloat16)
    layers = adapter_layers(load("llama").model, warm=True)
    modules = linear_layers(half.model, "all-linear")
    for layer in layers:
        modules[layer.name].weight.data.copy_(layer.weight)
    engine = make_engine(half, [AdaptedLayer(x.name, modules[x.name], x.a, x.b, x.scale) for x in layers])
    a = reference.features(rows, positions="all")
    b = engine.features(rows, positions="all")
    assert b.sketch.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(a.sketch, b.sketch)
    assert float(cosine.min()) > 0.98


def test_no_gradient_reaches_the_embedding_table() -> None:
    loaded = load("llama")
    engine = make_engine(loaded, adapter_layers(loaded.model, warm=False), dim=DIM)
    engine.features(make_rows([5]), positions="all")
    assert all(p.grad is None for p in loaded.model.parameters())


@pytest.mark.parametrize("name", ["llama", "gemma2_softcap", "gpt2_conv1d"])
@pytest.mark.parametrize("probe", ["rademacher", "centred", "loss"])
def test_probes_equal_a_one_row_loop(name: str, probe: str) -> None:
    rows = make_rows([5, 12, 3])
    loaded = load(name)
    layers = adapter_layers(loaded.model, warm=True)
    v = None if probe == "loss" else direction(probe, 97, seed=SEED, number=0)
    expected = one_row_loop(name, layers, rows, "loss" if probe == "loss" else "completion", v=v)
    positions = "targets" if probe == "loss" else "completion"
    found = make_engine(loaded, layers, probe=probe).features(rows, positions=positions)
    assert_equal(found, expected)


def test_exact_gradients_and_the_kernel_of_several_probes() -> None:
    """`none` keeps every coordinate; K probes give the mean of their kernels, unbiased over the mixing signs."""
    rows = make_rows([7, 5])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    kernels, norms = [], []
    for k in range(3):
        v = direction("rademacher", 97, seed=SEED, number=k)
        flat = [
            np.concatenate([g.ravel() for name in x for g in (x[name][1], x[name][0])])
            for x in one_row_loop("llama", layers, rows, "completion", v=v)
        ]
        kernels.append(float(flat[0] @ flat[1]))
        norms.append([float(f @ f) for f in flat])
        if k == 0:
            one = make_engine(loaded, layers, probe="rademacher", projection="none")
            found = one.features(rows, positions="completion")
            np.testing.assert_allclose(found.sketch[0].numpy() * float(found.norm[0]), flat[0], atol=1e-5)
    made = make_projection("none", dim=0, seed=0, device=loaded.device)
    probes = [LogitProbe(loaded.model, "rademacher", seed=SEED, number=k) for k in range(3)]
    dots = []
    for seed in range(60):
        made = make_projection("none", dim=0, seed=0, device=loaded.device)
        engine = GradientEngine(loaded, layers, projection=made, probes=probes, seed=seed)
        found = engine.features(rows, positions="completion")
        np.testing.assert_allclose(found.norm.numpy() ** 2, np.mean(norms, axis=0), rtol=1e-4)
        dots.append(float(found.sketch[0] @ found.sketch[1]) * float(found.norm[0] * found.norm[1]))
    spread = np.std(dots) / np.sqrt(len(dots))
    assert abs(np.mean(dots) - np.mean(kernels)) < 4 * spread + 1e-6


def test_a_shift_of_the_head_leaves_centred_alone_and_kills_sum() -> None:
    """docs/method.md: W - 1 w^T changes no probability; `centred` can't see it, `sum` becomes 0 with w the mean row."""
    rows = make_rows([6, 9])
    found = {}
    for shifted in (False, True):
        loaded = load("llama")
        if shifted:
            head = loaded.model.get_output_embeddings().weight
            head.data -= head.data.mean(dim=0)
        layers = adapter_layers(loaded.model, warm=True)
        for probe in ("sum", "centred"):
            found[probe, shifted] = make_engine(loaded, layers, probe=probe).features(rows, positions="completion")
    plain, moved = found["centred", False], found["centred", True]
    np.testing.assert_allclose(moved.norm, plain.norm, rtol=1e-4)
    np.testing.assert_allclose(moved.sketch, plain.sketch, atol=1e-5)
    assert float((found["sum", True].norm / found["sum", False].norm).max()) < 1e-4


def test_backward_stops_at_the_lowest_chosen_layer() -> None:
    rows = make_rows([8, 4])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    upper = only_layers(layers, "last:1")
    assert {layer.name.split(".")[2] for layer in upper} == {"1"}
    seen: list[int] = []
    for i, block in enumerate(loaded.model.model.layers):
        block.register_forward_hook(lambda m, args, out, i=i: seen.append(i) if out.requires_grad else None)
    found = make_engine(loaded, upper).features(rows, positions="completion")
    assert seen == [1], "a graph was built below the lowest adapter"
    kept = [
        {n: g for n, g in gradients.items() if ".1." in n}
        for gradients in one_row_loop("llama", layers, rows, "completion")
    ]
    for i, gradients in enumerate(kept):
        np.testing.assert_allclose(found.sketch[i], dense_sketch(gradients) / norm_of(gradients), atol=2e-5)


@pytest.mark.parametrize("wanted", ["first", "7", "last:9", "1-", ""])
def test_layers_that_are_not_there(wanted: str) -> None:
    with pytest.raises(UsageError, match="blocks 0 to 1"):
        only_layers(fresh_adapter(load("llama").model, rank=1, target_modules="all-linear", seed=0), wanted)


def test_dense_projection_is_the_product_with_its_sign_matrix() -> None:
    rows = make_rows([6, 5])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    exact = make_engine(loaded, layers, projection="none").features(rows, positions="all")
    found = make_engine(loaded, layers, projection="rademacher", dim=64).features(rows, positions="all")
    projection = make_projection("rademacher", dim=64, seed=SEED, device=loaded.device)
    matrix = []
    for layer in layers:
        for factor, columns in (("lora_B", layer.weight.shape[0]), ("lora_A", layer.a.shape[1])):
            slot = projection.factor(f"{layer.name}.{factor}", RANK, columns)
            matrix.append(dense_signs(slot.key, 0, RANK * columns, 64, loaded.device))  # type: ignore[attr-defined]
    expected = exact.sketch.double() @ torch.cat(matrix).double() / 8
    np.testing.assert_allclose(found.sketch, expected, atol=1e-5)


def test_dense_signs_are_fair_and_independent() -> None:
    signs = dense_signs(12345, 0, 2000, 96, torch.device("cpu"))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 4 / (2000 * 96) ** 0.5
    gram = (signs.T @ signs / 2000 - torch.eye(96)).abs()
    assert float(gram.max()) < 6 / 2000**0.5
    assert torch.equal(signs[500:510], dense_signs(12345, 500, 10, 96, torch.device("cpu")))

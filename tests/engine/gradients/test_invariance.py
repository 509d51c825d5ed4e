"""What must not change a feature: the side of the padding, threads, number formats; and that probes are unbiased."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.engine.gradients.probes import direction
from ntkcli.engine.gradients.projections import DenseRademacher
from ntkcli.engine.models.adapters import AdaptedLayer
from tests.engine import zoo
from tests.engine.kit import PlainLora, adapter_layers, assert_equal, load, make_engine, make_rows

CPU = torch.device("cpu")


def adapted_double(name: str, layers: list[AdaptedLayer]) -> tuple[Any, dict[str, PlainLora]]:
    model = zoo.build_double(name)
    plain = {}
    for layer in layers:
        plain[layer.name] = PlainLora(model.get_submodule(layer.name), layer.weight, layer, torch.float64)
        parent, _, last = layer.name.rpartition(".")
        setattr(model.get_submodule(parent), last, plain[layer.name])
    return model, plain


@pytest.mark.parametrize("name", ["llama", "mistral_window", "qwen3", "gpt2_conv1d"])
def test_padding_on_the_left_gives_the_same_gradients(name: str) -> None:
    """The engine pads on the right and gives no mask; plain autograd on rows padded left, with one, agrees."""
    rows = make_rows([5, 12, 3])
    loaded = load(name)
    layers = adapter_layers(loaded.model, warm=True)
    found = make_engine(loaded, layers).features(rows, positions="completion")
    model, plain = adapted_double(name, layers)
    model.set_attn_implementation("sdpa")  # of rows that see nothing, as padding on the left, eager attention makes NaN
    longest, expected = 12, []
    for row in rows:
        pad, length = longest - len(row.ids), len(row.ids)
        ids = torch.tensor([[0] * pad + row.ids.tolist()])
        mask = torch.tensor([[0] * pad + [1] * length])
        position = torch.tensor([[0] * pad + list(range(length))])
        logits = model(input_ids=ids, attention_mask=mask, position_ids=position).logits[0, pad:]
        value = logits[:-1][torch.tensor(row.supervised[1:])].sum(dim=-1).mean()
        grads = torch.autograd.grad(value, [p for layer in plain.values() for p in (layer.a, layer.b)])
        expected.append({n: (grads[2 * i].numpy(), grads[2 * i + 1].T.numpy()) for i, n in enumerate(plain)})
    assert_equal(found, expected, tolerance=3)


def test_threads_do_not_matter() -> None:
    rows = make_rows([5, 12, 9])
    loaded = load("llama")
    engine = make_engine(loaded, adapter_layers(loaded.model, warm=True))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = engine.features(rows, positions="completion")
        torch.set_num_threads(2)
        two = engine.features(rows, positions="completion")
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(two.sketch, one.sketch, atol=1e-6)
    np.testing.assert_allclose(two.norm, one.norm, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2_softcap", "phi3_fused", "granite_divided"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("probe", ["sum", "loss"])
def test_16_bits_are_near_float32_with_sums_in_float32(name: str, dtype: torch.dtype, probe: str) -> None:
    rows, positions = make_rows([12, 8, 5]), "targets" if probe == "loss" else "completion"
    exact, half = load(name), load(name, dtype)
    a = make_engine(exact, adapter_layers(exact.model, warm=False), probe=probe).features(rows, positions=positions)
    b = make_engine(half, adapter_layers(half.model, warm=False), probe=probe).features(rows, positions=positions)
    assert b.sketch.dtype == b.norm.dtype == torch.float32
    assert bool(torch.isfinite(b.sketch).all())
    assert float(torch.nn.functional.cosine_similarity(a.sketch, b.sketch).min()) > 0.97
    np.testing.assert_allclose(b.norm, a.norm, rtol=0.1)


@pytest.mark.parametrize("probe", ["rademacher", "centred"])
def test_probes_estimate_the_trace_of_the_kernel(probe: str) -> None:
    """E <∇ v·f, ∇ v·f'> = sum_k <∇ f_k, ∇ f'_k>, with the f centred over the vocabulary for `centred`."""
    layers = adapter_layers(load("llama").model, warm=True)
    model, plain = adapted_double("llama", layers)
    wanted = [p for layer in plain.values() for p in (layer.a, layer.b)]
    jacobians = []
    for row in make_rows([6, 8]):
        logits_V = model(input_ids=torch.tensor(row.ids[None].astype(np.int64))).logits[0].mean(dim=0)
        size = len(logits_V)
        grads = [torch.autograd.grad(logits_V[k], wanted, retain_graph=True) for k in range(size)]
        jacobians.append(torch.stack([torch.cat([g.flatten() for g in each]) for each in grads]))
    if probe == "centred":
        jacobians = [jacobian - jacobian.mean(dim=0) for jacobian in jacobians]
    kernel_VV = jacobians[0] @ jacobians[1].T
    n = 2000
    v_nV = torch.stack([direction(probe, size, seed=3, number=k) for k in range(n)]).double()
    products = torch.einsum("nv,vw,nw->n", v_nV, kernel_VV, v_nV)
    error = float(products.mean() - kernel_VV.trace())
    assert abs(error) < 4 * float(products.std()) / n**0.5


def test_the_dense_projection_is_unbiased_with_the_stated_variance() -> None:
    draw = np.random.default_rng(0)
    common = np.exp(2 * draw.normal(size=40))
    a, b = (draw.normal(size=(4, 40)) * common for _ in range(2))
    b += 0.5 * a
    exact, dim, n = float((a * b).sum()), 32, 800
    both = torch.tensor(np.stack([a, b]), dtype=torch.float32)
    found = []
    for seed in range(n):
        projection = DenseRademacher(dim, seed, CPU)
        slot = projection.factor("layer.lora_B", 4, 40)
        total = projection.zeros(2)
        projection.add(total, both, slot)
        sketch = projection.finish(total).double()
        found.append(float(sketch[0] @ sketch[1]))
    bound = float(((a**2).sum() * (b**2).sum() + exact**2) / dim)
    assert abs(np.mean(found) - exact) < 4 * np.sqrt(bound / n)
    assert np.var(found) < 1.25 * bound


@pytest.mark.parametrize("kind", ["sjlt", "rademacher"])
def test_the_same_sketch_bits_in_a_fresh_process(kind: str) -> None:
    code = (
        "import hashlib, torch\n"
        "from ntkcli.engine.gradients.projections import make_projection\n"
        f"p = make_projection({kind!r}, dim=48, seed=9, device=torch.device('cpu'))\n"
        "f = p.factor('model.layers.0.q_proj.lora_B', 3, 70)\n"
        "g = torch.arange(420.0).reshape(2, 3, 70) * f.alpha[:, None]\n"
        "t = p.zeros(2)\n"
        "p.add(t, g, f)\n"
        "print(hashlib.sha256((p.finish(t) * 48 ** 0.5).round(decimals=2).numpy().tobytes()).hexdigest())"
    )
    seen = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout}
    here: dict[str, str] = {}
    exec(code.replace("print(", "digest = ("), here)  # noqa: S102  (the very same lines)
    assert seen == {here["digest"] + "\n"}
    assert len(here["digest"]) == hashlib.sha256().digest_size * 2

"""What each token adds to a product with a row's gradient: against the features, and one by one against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.models.adapters import AdaptedLayer
from ntkcli.engine.models.loading import LoadedModel
from tests.engine import zoo
from tests.engine.kit import PlainLora, adapter_layers, load, make_engine, make_rows


def made(name: str, *, warm: bool = True, probe: str = "sum", probes: int = 1, projection: str = "sjlt") -> tuple[
    LoadedModel, list[AdaptedLayer], GradientEngine
]:  # fmt: skip
    loaded = load(name)
    layers = adapter_layers(loaded.model, warm=warm)
    return loaded, layers, make_engine(loaded, layers, probe=probe, probes=probes, projection=projection)


@pytest.mark.parametrize(
    ("probe", "probes", "projection", "positions"),
    [
        ("sum", 1, "sjlt", "completion"),
        ("sum", 1, "none", "last"),
        ("sum", 1, "rademacher", "all"),
        ("centred", 3, "sjlt", "all"),
        ("loss", 1, "sjlt", "targets"),
    ],
)
def test_the_parts_add_up_to_the_feature_s_product(probe: str, probes: int, projection: str, positions: str) -> None:
    """Of every projection and probe; and features afterwards are what they were before."""
    _, _, engine = made("llama", probe=probe, probes=probes, projection=projection)
    (row,) = make_rows([14])
    before = engine.features([row], positions=positions)
    torch.manual_seed(2)
    direction = torch.randn(engine.dim)
    parts = engine.token_products(row, positions=positions, direction_p=direction)
    assert parts.shape == (14,)
    expected = float((before.sketch[0].double() @ direction.double()) * before.norm[0])
    np.testing.assert_allclose(float(parts.sum()), expected, rtol=1e-4, atol=1e-5 * float(parts.abs().sum()))
    after = engine.features([row], positions=positions)
    assert torch.equal(after.sketch, before.sketch)


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "warmed"])
@pytest.mark.parametrize("name", ["llama", "gpt2_conv1d"])
def test_each_part_is_its_position_s(name: str, warm: bool) -> None:
    """Truth: factors that only position t uses (a copy of A and B for each), whose gradient is taken by autograd."""
    _, layers, engine = made(name, warm=warm, projection="none")
    (row,) = make_rows([7])
    torch.manual_seed(4)
    direction = torch.randn(engine.dim)
    parts = engine.token_products(row, positions="completion", direction_p=direction).numpy()

    model = zoo.build_double(name)
    plain: dict[str, OwnFactors] = {}
    for layer in layers:
        parent = model.get_submodule(layer.name.rpartition(".")[0])
        base = PlainLora(model.get_submodule(layer.name), layer.weight, layer, torch.float64)
        plain[layer.name] = OwnFactors(base, len(row))
        setattr(parent, layer.name.rpartition(".")[2], plain[layer.name])
    logits = model(input_ids=torch.tensor(row.ids.astype(np.int64))[None]).logits[0]
    value = logits.sum(dim=-1)[:-1][torch.tensor(row.supervised[1:])].mean()
    grads = torch.autograd.grad(value, [p for one in plain.values() for p in (one.b, one.a)])
    expected, start = np.zeros(len(row)), 0
    for i in range(len(layers)):
        grad_b, grad_a = grads[2 * i].transpose(1, 2), grads[2 * i + 1]  # (T, r, columns)
        for gradient in (grad_b, grad_a) if warm else (grad_b,):
            size = gradient[0].numel()
            expected += (gradient.flatten(1) @ direction[start : start + size].double()).numpy()
            start += size
    assert start == engine.dim
    assert np.count_nonzero(np.abs(expected) > 1e-3 * np.abs(expected).max()) > 2  # the prompt's tokens have parts too
    np.testing.assert_allclose(parts, expected, atol=2e-4 * np.abs(expected).max())


class OwnFactors(torch.nn.Module):
    """A LoRA layer with factors of its own for every position."""

    def __init__(self, base: PlainLora, tokens: int) -> None:
        super().__init__()
        self.base = base
        self.a = torch.nn.Parameter(base.a.detach().expand(tokens, *base.a.shape).clone())
        self.b = torch.nn.Parameter(base.b.detach().expand(tokens, *base.b.shape).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(1, len(self.a), -1)
        thin = torch.einsum("bti,tri->btr", flat, self.a)
        delta = self.base.scale * torch.einsum("btr,tor->bto", thin, self.b)
        y = torch.nn.functional.linear(flat, self.base.weight, self.base.bias) + delta
        return y.reshape(*x.shape[:-1], -1)


def test_padding_has_no_part() -> None:
    """A row's tokens behind the last position that counts are not computed, and have no part."""
    _, _, engine = made("llama")
    row = make_rows([9])[0]
    parts = engine.token_products(row, positions="completion", direction_p=torch.ones(engine.dim))
    last = int(np.flatnonzero(row.supervised[1:])[-1])
    assert bool((parts[last + 1 :] == 0).all())
    assert float(parts[: last + 1].abs().min()) > 0

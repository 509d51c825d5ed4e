"""Log-likelihoods of answer choices: the prompt is computed once for all choices of an item.

The choices of an item are branches of one sequence: [prompt | choice 1 | choice 2 | ...], where each branch sees
the prompt and itself and counts its positions on from the prompt. The result is that of separate
sequences at a fraction of the tokens. Models that don't take a mask and positions of our own, as one small item tells,
and models with windows or with positions that depend on the length (`engine.rope`) get one sequence a choice.

Legend: B packed sequences, Q their longest, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import pad_rows
from ntkcli.engine.memory import LOGIT_BYTES, DoesNotFitError, TokenBudget, out_of_memory, run_batches
from ntkcli.engine.models.loading import LoadedModel, decoder_of, head_logits, head_of
from ntkcli.engine.rope import length_classes

PROBE_PROMPT, PROBE_CHOICES = 11, (7, 9, 5, 7)
"""Tokens of the small item that tells whether a model shares prompts: long enough for ALiBi's distances to matter."""
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Relative, of hidden states: above what rounding moves, far below what a choice that sees another one moves."""


_CANNOT = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What models raise that are given a mask or positions that they don't know."""


@dataclass(frozen=True, slots=True)
class _Pack:
    """A prompt and branches of an item; `scores` lists (choice, predicting position, token id) of supervised tokens."""

    item: int
    choices: list[int]
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    branch: NDArray[np.int64]  # 0 for the prompt, then 1, 2, ...
    scores: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """For each item, of each choice: `sums` (choices,) float64, and `greedy` (choices,) bool.

    The sum is of the log-probabilities of the supervised tokens, NaN if one is not finite; greedy, that each is the
    most likely one at its place.
    """

    sums: list[NDArray[np.float64]]
    greedy: list[NDArray[np.bool_]]


def choice_logliks(loaded: LoadedModel, items: Sequence[Sequence[Encoded]], *, budget: TokenBudget) -> Likelihoods:
    """How likely each choice is after its prompt; `items[i][c]` is the row encoded with choice c as its answer.

    Raises:
        DoesNotFitError: a choice with its prompt does not fit in memory; `row` is the item's place.
    """
    classes = length_classes(loaded.model.config)
    share, whole = classes is None and shares_prefixes(loaded), classes is not None
    found = Likelihoods(
        [np.full(len(choices), np.nan) for choices in items],
        [np.zeros(len(choices), dtype=np.bool_) for choices in items],
    )
    padded: set[tuple[int, int]] = set()
    packs = [pack for i, choices in enumerate(items) for pack in _pack(i, choices, share=share, whole=whole)]
    while packs:
        packs = _compute(loaded, items, packs, found, padded, budget)
    for i, c in sorted(padded):  # padding, or another choice, may be to blame: no choice is lost for its company
        if not np.isfinite(found.sums[i][c]):
            _compute(loaded, items, _apart(i, [c], items[i], whole=whole), found, set(), budget)
    return found


def _compute(
    loaded: LoadedModel,
    items: Sequence[Sequence[Encoded]],
    packs: list[_Pack],
    found: Likelihoods,
    padded: set[tuple[int, int]],
    budget: TokenBudget,
) -> list[_Pack]:
    """Compute the packs; returns those that are left where one did not fit and was taken apart into its choices."""
    left = dict(enumerate(packs))
    classes = length_classes(loaded.model.config)

    def compute(where: NDArray[np.int64]) -> None:
        chosen = [packs[j] for j in where]
        values = iter(_forward(loaded, chosen))
        for j, pack in zip(where.tolist(), chosen, strict=True):
            sums, greedy = dict.fromkeys(pack.choices, 0.0), dict.fromkeys(pack.choices, True)
            for choice, _, _ in pack.scores:
                value, best = next(values)
                sums[choice] += value
                greedy[choice] &= best
            for choice, value in sums.items():
                finite = math.isfinite(value)
                found.sums[pack.item][choice] = value if finite else math.nan
                found.greedy[pack.item][choice] = greedy[choice] and finite
            if len(pack.choices) > 1 or len(pack.ids) < len(chosen[0].ids):
                padded.update((pack.item, choice) for choice in pack.choices)
            del left[j]

    try:
        run_batches([len(pack.ids) for pack in packs], budget, compute, classes)
    except DoesNotFitError as error:
        pack = left.pop(error.row)
        if len(pack.choices) == 1:
            raise DoesNotFitError(pack.item, error.tokens) from error
        apart = _apart(pack.item, pack.choices, items[pack.item], whole=classes is not None)
        return [*apart, *left.values()]
    return []


_SHARES: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def shares_prefixes(loaded: LoadedModel) -> bool:
    """Whether choices may be branches of one sequence: looked at once a model, without an adapter if `Evaluator` asks.

    By its configuration (full attention in every layer: a window may be longer than any small item), and by what it
    does: the hidden states of one small item are the same, packed and apart.
    """
    if loaded.model not in _SHARES:
        _SHARES[loaded.model] = _attends_fully(loaded.model) and _packs_well(loaded)
    return _SHARES[loaded.model]


def _attends_fully(model: Any) -> bool:
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or []
    return not getattr(config, "sliding_window", None) and all(kind == "full_attention" for kind in layers)


def _packs_well(loaded: LoadedModel) -> bool:
    """Whether the small item gives the same hidden states, packed and apart; not if the model can't take it packed."""
    embedded = loaded.model.get_input_embeddings().weight.shape[0]
    draw = np.random.default_rng(0)
    prompt, *tails = (draw.integers(0, embedded, n) for n in (PROBE_PROMPT, *PROBE_CHOICES))
    choices = []
    for tail in tails:
        ids = np.concatenate([prompt, tail]).astype(np.int32)
        choices.append(Encoded(ids, np.arange(len(ids)) >= PROBE_PROMPT, truncated=False))
    numbers = list(range(len(choices)))
    try:
        packed_ND, _ = _scored_states(loaded, [_join(0, numbers, choices, PROBE_PROMPT)])
    except _CANNOT as error:
        if out_of_memory(error):
            raise
        return False
    apart_ND, _ = _scored_states(loaded, _apart(0, numbers, choices))
    moved = (packed_ND - apart_ND).float().norm(dim=-1) / apart_ND.float().norm(dim=-1)
    return bool(moved.max() < PROBE_TOLERANCE.get(loaded.dtype, 1e-3))


def _pack(item: int, choices: Sequence[Encoded], *, share: bool, whole: bool = False) -> list[_Pack]:
    prefix = min(int(np.argmax(choice.supervised)) for choice in choices)
    first = choices[0].ids[:prefix]
    same = all(len(choice.ids) > prefix and np.array_equal(choice.ids[:prefix], first) for choice in choices)
    numbers = list(range(len(choices)))
    if share and same and prefix > 0 and len(choices) > 1:
        return [_join(item, numbers, choices, prefix)]
    return _apart(item, numbers, choices, whole=whole)


def _apart(item: int, numbers: Sequence[int], choices: Sequence[Encoded], *, whole: bool = False) -> list[_Pack]:
    """One sequence for each of these choices."""
    starts = {c: max(1, int(np.argmax(choices[c].supervised))) for c in numbers}
    return [_join(item, [c], choices, starts[c], whole=whole) for c in numbers]


def _join(item: int, numbers: list[int], choices: Sequence[Encoded], prefix: int, *, whole: bool = False) -> _Pack:
    """The first `prefix` tokens once, then a branch for each of the choices with these numbers, `whole` or as
    needed."""
    ids, positions, branch = (
        [choices[numbers[0]].ids[:prefix]],
        [np.arange(prefix)],
        [np.zeros(prefix, dtype=np.int64)],
    )
    scores, offset = [], prefix
    for number, c in enumerate(numbers, start=1):
        choice = choices[c]
        supervised = np.flatnonzero(choice.supervised[prefix:])
        # The last supervised token predicts nothing, nor does what follows it; it counts where the length does.
        tail = len(choice) - prefix if whole else int(supervised.max(initial=0))
        ids.append(choice.ids[prefix : prefix + tail])
        positions.append(prefix + np.arange(tail))
        branch.append(np.full(tail, number))
        for k in supervised:
            predictor = prefix - 1 if k == 0 else offset + int(k) - 1
            scores.append((c, predictor, int(choice.ids[prefix + k])))
        offset += tail
    joined = [np.concatenate(parts).astype(np.int64) for parts in (ids, positions, branch)]
    return _Pack(item, numbers, joined[0], joined[1], joined[2], scores)


def _forward(loaded: LoadedModel, packs: list[_Pack]) -> list[tuple[float, bool]]:
    """Log-probability of each scored token, and whether it is the most likely; packs and their scores in order."""
    hidden_ND, tokens_N = _scored_states(loaded, packs)
    return _log_probabilities(loaded, hidden_ND, tokens_N)


@torch.inference_mode()
def _scored_states(loaded: LoadedModel, packs: list[_Pack]) -> tuple[Tensor, Tensor]:
    """The final hidden state (N, D) from which each scored token is predicted, and the tokens (N,)."""
    ids = torch.from_numpy(pad_rows([pack.ids for pack in packs], 0))
    positions = torch.from_numpy(pad_rows([pack.positions for pack in packs], 0))
    branch = torch.from_numpy(pad_rows([pack.branch for pack in packs], -1))  # -1: padding
    where = [(b, predictor) for b, pack in enumerate(packs) for _, predictor, _ in pack.scores]
    tokens = [token for pack in packs for _, _, token in pack.scores]
    device = loaded.device
    if int(branch.max()) > 1:
        form = {"attention_mask": _tree_mask(branch).to(device), "position_ids": positions.to(device)}
    else:  # plain causal rows, padded on the right: some models count by themselves and take no positions
        form = {"attention_mask": (branch >= 0).long().to(device)}
    hidden_BQD = decoder_of(loaded.model)(input_ids=ids.to(device), use_cache=False, **form).last_hidden_state
    rows, columns = torch.tensor(where, device=device).unbind(dim=1)
    return hidden_BQD[rows, columns], torch.tensor(tokens, device=device)


@torch.inference_mode()
def _log_probabilities(loaded: LoadedModel, hidden_ND: Tensor, tokens_N: Tensor) -> list[tuple[float, bool]]:
    """The log-probability of each token and if it is the highest; logits of at most `LOGIT_BYTES` stand at once."""
    block = max(1, LOGIT_BYTES // (4 * len(head_of(loaded.model).weight)))
    found: list[tuple[float, bool]] = []
    for start in range(0, len(tokens_N), block):
        logits_NV = head_logits(loaded.model, hidden_ND[start : start + block])
        own_N = tokens_N[start : start + block]
        picked_N = torch.log_softmax(logits_NV, dim=-1).gather(1, own_N[:, None])[:, 0]
        best_N = logits_NV.argmax(dim=-1) == own_N
        found += zip(picked_N.double().tolist(), best_N.tolist(), strict=True)
    return found


def _tree_mask(branch_BQ: Tensor) -> Tensor:
    """(B, 1, Q, Q) bool: a query sees earlier positions of the prompt and of its own branch, and always itself."""
    query, key = branch_BQ[:, :, None], branch_BQ[:, None, :]
    earlier = torch.ones(branch_BQ.shape[1], branch_BQ.shape[1], dtype=torch.bool).tril()
    seen = earlier & ((key == 0) | (key == query))
    return seen[:, None]

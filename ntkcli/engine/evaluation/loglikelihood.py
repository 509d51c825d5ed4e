"""Log-likelihoods of answer choices: the prompt is computed once for all choices of an item.

The choices of an item are branches of one sequence: [prompt | choice 1 | choice 2 | ...], where each branch sees
the prompt and itself and counts its positions on from the prompt. The result is that of separate
sequences at a fraction of the tokens. Models with sliding windows or their own masks get one sequence a choice.

Legend: B packed sequences, Q their longest, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import run_batches
from ntkcli.engine.models.loading import LoadedModel, decoder_of, head_logits, head_of

LOGIT_BYTES = 256 << 20
"""Of float32 logits at once: 440 tokens at a vocabulary of 152,000."""


@dataclass(frozen=True, slots=True)
class _Pack:
    """A prompt and branches; `scores` lists (item, choice, position that predicts, token id) of supervised tokens."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    branch: NDArray[np.int64]  # 0 for the prompt, then 1, 2, ...
    scores: list[tuple[int, int, int, int]]


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """For each item, of each choice: `sums` (choices,) float64, and `greedy` (choices,) bool.

    The sum is of the log-probabilities of the supervised tokens; greedy, that each is the most likely one at its place.
    `budget_tokens` is the budget for the next call: lower where a batch didn't fit into memory.
    """

    sums: list[NDArray[np.float64]]
    greedy: list[NDArray[np.bool_]]
    budget_tokens: int


def choice_logliks(loaded: LoadedModel, items: Sequence[Sequence[Encoded]], *, budget_tokens: int) -> Likelihoods:
    """How likely each choice is after its prompt; `items[i][c]` is the row encoded with choice c as its answer."""
    share = shares_prefixes(loaded.model)
    packs = [pack for i, choices in enumerate(items) for pack in _pack(i, choices, share=share)]
    sums = [np.zeros(len(choices)) for choices in items]
    greedy = [np.ones(len(choices), dtype=np.bool_) for choices in items]

    def compute(where: NDArray[np.int64]) -> None:
        chosen = [packs[j] for j in where]
        scored = [score for pack in chosen for score in pack.scores]
        for (item, choice, _, _), (value, best) in zip(scored, _forward(loaded, chosen), strict=True):
            sums[item][choice] += value
            greedy[item][choice] &= best

    budget = run_batches([len(pack.ids) for pack in packs], budget_tokens, compute)
    return Likelihoods(sums, greedy, budget)


def shares_prefixes(model: Any) -> bool:
    """Whether the model takes a mask of our own: full attention in every layer, by its configuration."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or []
    return not getattr(config, "sliding_window", None) and all(kind == "full_attention" for kind in layers)


def _pack(item: int, choices: Sequence[Encoded], *, share: bool) -> list[_Pack]:
    starts = [int(np.argmax(choice.supervised)) for choice in choices]
    prefix = min(starts)
    first = choices[0].ids[:prefix]
    same = all(len(choice.ids) > prefix and np.array_equal(choice.ids[:prefix], first) for choice in choices)
    if share and same and prefix > 0:
        return [_join(item, list(enumerate(choices)), prefix)]
    return [
        _join(item, [(c, choice)], max(1, start)) for c, (choice, start) in enumerate(zip(choices, starts, strict=True))
    ]


def _join(item: int, choices: list[tuple[int, Encoded]], prefix: int) -> _Pack:
    ids, positions, branch = (
        [choices[0][1].ids[:prefix]],
        [np.arange(prefix)],
        [np.zeros(prefix, dtype=np.int64)],
    )
    scores, offset = [], prefix
    for number, (c, choice) in enumerate(choices, start=1):
        supervised = np.flatnonzero(choice.supervised[prefix:])
        tail = int(supervised.max(initial=0))  # the last supervised token predicts nothing, nor does what follows it
        ids.append(choice.ids[prefix : prefix + tail])
        positions.append(prefix + np.arange(tail))
        branch.append(np.full(tail, number))
        for k in supervised:
            predictor = prefix - 1 if k == 0 else offset + int(k) - 1
            scores.append((item, c, predictor, int(choice.ids[prefix + k])))
        offset += tail
    joined = [np.concatenate(parts).astype(np.int64) for parts in (ids, positions, branch)]
    return _Pack(joined[0], joined[1], joined[2], scores)


@torch.inference_mode()
def _forward(loaded: LoadedModel, packs: list[_Pack]) -> list[tuple[float, bool]]:
    """Log-probability of each scored token, and whether it is the most likely; packs and their scores in order."""
    longest = max(len(pack.ids) for pack in packs)
    ids = torch.zeros(len(packs), longest, dtype=torch.int64)
    positions = torch.zeros(len(packs), longest, dtype=torch.int64)
    branch = torch.full((len(packs), longest), -1, dtype=torch.int64)  # -1: padding
    where: list[tuple[int, int]] = []
    tokens: list[int] = []
    for b, pack in enumerate(packs):
        length = len(pack.ids)
        ids[b, :length] = torch.from_numpy(pack.ids)
        positions[b, :length] = torch.from_numpy(pack.positions)
        branch[b, :length] = torch.from_numpy(pack.branch)
        where += [(b, predictor) for _, _, predictor, _ in pack.scores]
        tokens += [token for _, _, _, token in pack.scores]
    device = loaded.device
    branched = int(branch.max()) > 1
    mask = _tree_mask(branch) if branched else (branch >= 0).long()
    hidden_BQD = decoder_of(loaded.model)(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
        use_cache=False,
    ).last_hidden_state
    rows, columns = torch.tensor(where, device=device).unbind(dim=1)
    return _log_probabilities(loaded, hidden_BQD[rows, columns], torch.tensor(tokens, device=device))


def _log_probabilities(loaded: LoadedModel, hidden_ND: Tensor, tokens_N: Tensor) -> list[tuple[float, bool]]:
    """The log-probability of each token and if it is the highest; logits of at most `LOGIT_BYTES` stand at once."""
    block = max(1, LOGIT_BYTES // (4 * head_of(loaded.model).out_features))
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

"""How wrong the model is on a row: its loss, and the length of what it gets wrong, over the tokens it should predict.

With w_t the weights of the positions that predict a supervised token (1/|P| each), p_t the model's probabilities there
and y_t the token that follows:

    loss        sum_t w_t (-log p_t[y_t])          nats per token, what kind `loss` has the gradient of
    residual    sum_t w_t |p_t - e(y_t)|           Euclidean, in [0, sqrt 2]; p - e(y) is d loss / d logits

Both come from hidden states that are there already, the logits in blocks of `LOGIT_BYTES` at most.

Legend: B rows, T tokens, D hidden size, V vocabulary, N positions of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import Batch, final_hidden, pad
from ntkcli.engine.memory import LOGIT_BYTES
from ntkcli.engine.models.loading import LoadedModel, decoder_of, head_logits, head_of
from ntkcli.engine.models.switch import AdapterSwitch
from ntkcli.engine.rope import length_classes

LOSS, BEFORE, RESIDUAL = "loss", "loss_before", "residual"
"""Names of the arrays: under the adapter, without it, and under it."""


class LossMeter:
    """Measures batches of rows: by the hidden states of the features' own forward, and without the adapter if asked.

    `names` are the columns of `take`: loss and residual, and with a `switch` the loss before, for one more forward.
    """

    def __init__(self, loaded: LoadedModel, switch: AdapterSwitch | None) -> None:
        self._loaded, self._switch = loaded, switch
        self._decoder = decoder_of(loaded.model)
        self._whole = length_classes(loaded.model.config) is not None
        self._found: Tensor | None = None
        self.names = (LOSS, RESIDUAL) if switch is None else (LOSS, RESIDUAL, BEFORE)

    @torch.no_grad()
    def watch(self, hidden_BTD: Tensor, rows: Sequence[Encoded]) -> None:
        """Measure the rows of a batch by their final hidden states, which hold all positions that predict."""
        self._found = self._measure(hidden_BTD.detach(), rows)

    def take(self, rows: Sequence[Encoded]) -> Tensor:
        """What was measured of the batch last watched, (B, len(names)) float32."""
        found, self._found = self._found, None
        if found is None:
            raise RuntimeError("no hidden states of this batch were watched")
        if self._switch is None:
            return found
        with self._switch.off(), torch.inference_mode():
            hidden_BTD = final_hidden(self._decoder, self._pad(rows))
            before_B = self._measure(hidden_BTD, rows)[:, :1]
        return torch.cat([found, before_B], dim=1)

    def _pad(self, rows: Sequence[Encoded]) -> Batch:
        pad_id = self._loaded.tokenizer.pad_token_id or 0
        return pad(rows, positions="targets", pad_id=pad_id, device=self._loaded.device, whole=self._whole)

    def _measure(self, hidden_BTD: Tensor, rows: Sequence[Encoded]) -> Tensor:
        batch = self._pad(rows)
        values_2BT = torch.zeros(2, *batch.weight.shape, device=hidden_BTD.device)
        block = max(1, LOGIT_BYTES // (4 * head_of(self._loaded.model).out_features))
        for where, following in zip(
            torch.split(batch.weighted, block), torch.split(batch.following, block), strict=True
        ):
            rows_N, places_N = where.unbind(dim=1)
            logits_NV = head_logits(self._loaded.model, hidden_BTD[rows_N, places_N]).float()
            values_2BT[0, rows_N, places_N] = torch.nn.functional.cross_entropy(logits_NV, following, reduction="none")
            wrong_NV = torch.softmax(logits_NV, dim=-1)
            wrong_NV[torch.arange(len(following), device=following.device), following] -= 1
            values_2BT[1, rows_N, places_N] = torch.linalg.vector_norm(wrong_NV, dim=-1)
        return (values_2BT * batch.weight).sum(dim=2).T

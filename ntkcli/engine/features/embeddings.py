"""Embeddings of rows, pooled from the final hidden states h_t:

    mean      1/|P| sum_{t in P} h_t, over all tokens by default (arXiv 2511.07380, stage 1)
    weighted  sum_t t h_t / sum_t t: later tokens have seen more of the row (RDS+)
    last      the last token's

Legend: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import final_hidden, pad
from ntkcli.engine.models.loading import LoadedModel, decoder_of
from ntkcli.engine.rope import length_classes


class EmbeddingEngine:
    """Computes embeddings of batches of rows: one forward of the decoder, no head.

    `watch` is given the final hidden states of each batch (B, T, D) and its rows.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        pooling: str,
        watch: Callable[[Tensor, Sequence[Encoded]], None] | None = None,
    ) -> None:
        self._loaded, self._pooling, self._watch = loaded, pooling, watch
        self._decoder = decoder_of(loaded.model)
        self._whole = length_classes(loaded.model.config) is not None

    @torch.inference_mode()
    def features(self, rows: Sequence[Encoded], *, positions: str) -> tuple[Tensor, Tensor]:
        """Unit embeddings (B, D) float32 and their norms (B,) float32, on the model's device.

        `positions` as in `batches.position_weights`; pooling `last` takes the last whatever they are.
        """
        hidden_BTD, weight_BT = self._weighted(rows, positions)
        if self._watch is not None:
            self._watch(hidden_BTD, rows)
        mean_BD = torch.einsum("bt,btd->bd", weight_BT, hidden_BTD.float())
        norm_B = torch.linalg.vector_norm(mean_BD, dim=1)
        return mean_BD / torch.where(norm_B > 0, norm_B, 1.0)[:, None], norm_B

    @torch.inference_mode()
    def token_products(self, row: Encoded, *, positions: str, direction_p: Tensor) -> Tensor:
        """What each token adds to the product of the row's embedding, at its own length, with a direction (D,).

        (T,) float64: w_t <h_t, v>.
        """
        hidden_BTD, weight_BT = self._weighted([row], positions)
        found_T = torch.zeros(len(row), dtype=torch.float64, device=hidden_BTD.device)
        found_T[: hidden_BTD.shape[1]] = weight_BT[0] * (hidden_BTD[0].double() @ direction_p.double())
        return found_T

    def _weighted(self, rows: Sequence[Encoded], positions: str) -> tuple[Tensor, Tensor]:
        """Final hidden states (B, T, D) and their weights in the pooled one (B, T) float32."""
        positions = "last" if self._pooling == "last" else positions
        pad_id = self._loaded.tokenizer.pad_token_id or 0
        batch = pad(rows, positions=positions, pad_id=pad_id, device=self._loaded.device, whole=self._whole)
        hidden_BTD = final_hidden(self._decoder, batch)
        weight_BT = batch.weight
        if self._pooling == "weighted":
            weight_BT = weight_BT * torch.arange(1, weight_BT.shape[1] + 1, device=weight_BT.device)
            weight_BT = weight_BT / weight_BT.sum(dim=1, keepdim=True)
        return hidden_BTD, weight_BT

"""Embeddings of rows: the mean of the final hidden states over the row's tokens (arXiv 2511.07380, stage 1).

Legend: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import pad
from ntkcli.engine.models import LoadedModel, decoder_of


class EmbeddingEngine:
    """Computes embeddings of batches of rows: one forward of the decoder, no head."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._decoder = decoder_of(loaded.model)

    @torch.inference_mode()
    def features(self, rows: Sequence[Encoded], *, positions: str) -> tuple[Tensor, Tensor]:
        """Unit embeddings (B, D) float32 and their norms (B,) float32, on the model's device.

        `positions` as in `batches.position_weights`: `all` is the paper's mean.
        """
        pad_id = self._loaded.tokenizer.pad_token_id or 0
        batch = pad(rows, positions=positions, pad_id=pad_id, device=self._loaded.device)
        output = self._decoder(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
        mean_BD = torch.einsum("bt,btd->bd", batch.weight, output.last_hidden_state.float())
        norm_B = torch.linalg.vector_norm(mean_BD, dim=1)
        return mean_BD / torch.where(norm_B > 0, norm_B, 1.0)[:, None], norm_B

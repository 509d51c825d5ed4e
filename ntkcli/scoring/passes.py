"""One pass over a pool's features for several scores at once.

Each score is a `ByPiece` (a few products with each row) or a `ByBlock` (products with many domain rows). What one gets
to see does not depend on the others, so its values are the same alone and in company.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ntkcli.scoring.features import Block, FeatureReader, Piece
from ntkcli.scoring.threads import one_thread_each


class ByPiece(Protocol):
    """Takes pieces in several threads at once."""

    def take_piece(self, piece: Piece) -> None:
        """Compute and keep what belongs to these rows."""


class ByBlock(Protocol):
    """Takes blocks in several threads at once, and what it made of them one by one."""

    def take_block(self, block: Block) -> Any:
        """Compute what belongs to these rows."""

    def keep(self, found: Any) -> None:
        """Take what `take_block` returned, in the order of the blocks."""


def one_pass(pool: FeatureReader, *, by_piece: Sequence[ByPiece] = (), by_block: Sequence[ByBlock] = ()) -> None:
    """Give every row of the pool to each of these; the features are read and decoded once."""

    def work(block: Block) -> list[Any]:
        if by_piece:
            for piece in block.pieces():
                for use in by_piece:
                    use.take_piece(piece)
        return [use.take_block(block) for use in by_block]

    with one_thread_each():
        for found in pool.each(work):
            for use, each in zip(by_block, found, strict=True):
                use.keep(each)

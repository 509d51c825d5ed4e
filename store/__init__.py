"""The on-disk feature store of ntksel: numpy and zarr only. The format is specified in docs/store-format.md.

store = Store.open_or_create("med", made_by="ntksel 0.1.0")
scores = store.create("scores/stage1", kind="score", spec=spec, parents=parents, n=n, part_rows=100,
                      arrays={"score": ArraySpec("float32"), "similarity": ArraySpec("float32")})
for i in scores.pending():
    scores.write_part(i, {"score": ..., "similarity": ...})
scores.read("score")
"""

from store.artefact import Artefact
from store.atomic import folder_bytes, free_bytes, publish_dir, write_bytes, write_pieces
from store.check import Checked, check
from store.check_documents import Finding
from store.documents import ArraySpec
from store.errors import (
    DamagedError,
    IncompleteError,
    MissingArtefactError,
    NameInvalidError,
    NewerFormatError,
    NoStoreError,
    SpecDiffersError,
    StoreError,
)
from store.fix import Action, Do, Fix
from store.header import repair as repair_header
from store.layout import Kind, RowStatus, check_name, n_parts, part_bounds, row_ranges, say_rows, status_attrs
from store.root import Store
from store.spec import ABSENT, Difference, canonical_json, differences, fingerprint

__all__ = [
    "ABSENT",
    "Action",
    "ArraySpec",
    "Artefact",
    "Checked",
    "DamagedError",
    "Difference",
    "Do",
    "Finding",
    "Fix",
    "IncompleteError",
    "Kind",
    "MissingArtefactError",
    "NameInvalidError",
    "NewerFormatError",
    "NoStoreError",
    "RowStatus",
    "SpecDiffersError",
    "Store",
    "StoreError",
    "canonical_json",
    "check",
    "check_name",
    "differences",
    "fingerprint",
    "folder_bytes",
    "free_bytes",
    "n_parts",
    "part_bounds",
    "publish_dir",
    "repair_header",
    "row_ranges",
    "say_rows",
    "status_attrs",
    "write_bytes",
    "write_pieces",
]

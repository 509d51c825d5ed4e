"""The pipeline from Python: features, a score, a selection, an adapter and its evaluation, each resumable.

    python examples/api.py STORE MODEL DOMAIN.jsonl POOL.jsonl TEST.jsonl

Run it again after a kill, and it continues where it was; finished steps load no model.
"""

from __future__ import annotations

import sys

import numpy as np

from ntkcli.api import Kind, evaluate, explain, featurize, finetune, open_store, score, select


def main(path: str, model: str, domain: str, pool: str, test: str) -> None:
    """Choose a tenth of the pool and compare a model trained with it to the untrained one."""
    store = open_store(path, create=True)
    for name, file in (("domain", domain), ("pool", pool)):
        features = featurize(store, data=file, name=name, kind=Kind.NTK, model=model, probe="centred", dim=512)
        print(f"{features.artefact}: {features.vectors().shape}, digest {features.digest}")

    scored = score(store, pool="pool", domain="domain", method="cosine", centre=True, name="near")
    values = scored.values()
    print(f"{scored.scored} of {scored.rows} rows scored, the best {np.nanmax(values):.3f}")

    chosen = select(store, score="near", n=max(1, scored.rows // 10), name="picked")
    why = explain(store, selection="picked", row=chosen.row_ids()[0])
    print(f"the first: {why.row_id}, nearest to {why.nearest[0].row_id}")

    run = finetune(store, model=model, train=[domain, "picked"], epochs=1, rank=4, name="mixed")
    print(f"{run.steps} steps, loss {run.losses()[0]:.2f} to {run.losses()[-1]:.2f}")
    result = evaluate(store, model=model, run=["base", "mixed"], task=[test], name="test")
    for sentence in result.sentences:
        print(sentence)


if __name__ == "__main__":
    main(*sys.argv[1:])

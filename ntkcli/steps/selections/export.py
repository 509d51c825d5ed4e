"""Write a selection's rows for training: the pool's own columns or a trainer's schema, with score and rank.

The manifest beside the file says what it was made of, down to digests and the file's own checksum.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

import store
from ntkcli.data import Row, pick
from ntkcli.errors import DataError, UsageError
from ntkcli.steps.shared.datasets import data_file

Format = Literal["own", "messages", "alpaca", "prompt-completion"]
Record = dict[str, Any]
SUFFIXES: Final = (".jsonl", ".parquet")


def export_rows(
    stored: store.Store, dataset: store.Artefact, selection: store.Artefact, path: Path, *, schema: Format = "own"
) -> None:
    """Write the rows in rank order, with `ntksel_score` and `ntksel_rank` (from 1), and the manifest.

    `path` ends in .jsonl or .parquet, or has no suffix: a folder by `datasets.save_to_disk`. `schema` "own" keeps the
    pool's columns. The manifest is `<path>.manifest.json`; the same selection exported again gives the same bytes.

    Raises:
        UsageError: no such folder, or a suffix that can't be written.
        DataError: a row doesn't fit the schema; it says which one.
    """
    if not path.parent.is_dir():
        raise UsageError(f"--export {path}: there is no folder {path.parent}.", "Make it first.")
    if path.suffix not in ("", *SUFFIXES):
        raise UsageError(f"--export {path}: {path.suffix} can't be written.", "Give .jsonl, .parquet or no suffix.")
    if path.is_dir() and not (path.suffix == "" and (path / "state.json").is_file()):
        raise UsageError(f"--export {path} is a folder that save_to_disk didn't write.", "Give a new name.")
    records = _records(stored, dataset, selection, schema)
    if path.suffix == ".jsonl":
        store.write_bytes(path, *(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records))
    else:
        _write_table(stored, path, records)
    manifest = {
        "selection": selection.name,
        "fingerprint": selection.fingerprint,
        "spec": selection.spec,
        "made_from": lineage(stored, selection),
        "digest": selection.digest(),
        "data": {"name": dataset.name, "digest": dataset.spec["digest"], "file": dataset.attrs["source"]},
        "rows": len(records),
        "format": schema,
        "sha256": _checksum(path),
        "trainers": trainer_entries(path, schema, system=any(record.get("system") for record in records)),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    store.write_bytes(path.with_name(f"{path.name}.manifest.json"), text.encode())


def trainer_entries(path: Path, schema: Format, *, system: bool = False) -> dict[str, Any]:
    """What to paste: LLaMA-Factory's dataset_info.json, axolotl's `datasets`, TRL's load_dataset; none for "own".

    Only what the trainer reads: no folder for LLaMA-Factory, which wants files of one type in it, and no alpaca for
    TRL, whose SFTTrainer knows messages and prompt/completion. `system`: some row has a system text.
    """
    if schema == "own":
        return {}
    file = str(path.resolve())
    builder = {".jsonl": "json", ".parquet": "parquet"}.get(path.suffix)
    factory, axolotl = _SHAPES[schema]
    if schema == "alpaca" and system:
        axolotl = {"type": "alpaca_w_system.load_instruct"}
    found: dict[str, Any] = {"axolotl": {"datasets": [{"path": file} | ({"ds_type": builder} if builder else {})]}}
    found["axolotl"]["datasets"][0] |= axolotl
    if builder:
        found["llama_factory"] = {path.stem: {"file_name": file} | factory}
    if schema != "alpaca":
        found["trl"] = {"path": builder, "data_files": file} if builder else {"load_from_disk": file}
    return found


_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
_SHAPES: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "messages": (
        {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": {**_TAGS, "system_tag": "system"}},
        {"type": "chat_template", "field_messages": "messages"},
    ),
    "alpaca": (
        {
            "formatting": "alpaca",
            "columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"},
        },
        {"type": "alpaca"},
    ),
    "prompt-completion": (
        {"formatting": "alpaca", "columns": {"prompt": "prompt", "response": "completion"}},
        {
            "type": {
                "field_instruction": "prompt",
                "field_output": "completion",
                "format": "{instruction}",
                "no_input_format": "{instruction}",
            }
        },
    ),
}
"""Of each schema: its description in LLaMA-Factory's terms and in axolotl's."""


def lineage(stored: store.Store, artefact: store.Artefact) -> dict[str, Any]:
    """Fingerprint and spec of everything that it was made from, by name."""
    found: dict[str, Any] = {}
    to_do = list(artefact.parents)
    while to_do:
        name = to_do.pop()
        parent = stored.find(name)
        if name not in found and parent is not None:
            found[name] = {"fingerprint": parent.fingerprint, "spec": parent.spec}
            to_do += parent.parents
    return found


def export_scores(stored: store.Store, dataset: store.Artefact, path: Path) -> None:
    """Every finished score of the pool as parquet: `row`, `row_id`, `source` and a float32 column for each score."""
    if path.suffix != ".parquet" or not path.parent.is_dir():
        raise UsageError(f"--export-scores {path} can't be written.", "Give a .parquet file in a folder that exists.")
    name = dataset.name.partition("/")[2]
    labels = [str(label) for label in dataset.attrs["sources"]]
    columns: dict[str, Any] = {
        "row": np.arange(dataset.n),
        "row_id": dataset.read("row_id").tolist(),
        "source": [labels[code] for code in dataset.read("source")],
    }
    for score in stored.artefacts(store.Kind.SCORE):
        if score.attrs["data"] == name and score.complete:
            columns[f"score_{score.name.partition('/')[2]}"] = score.read("score")
    _write_parquet(stored, path, columns)


def _records(stored: store.Store, dataset: store.Artefact, selection: store.Artefact, schema: Format) -> list[Record]:
    rows, scores = selection.read("row"), selection.read("score")
    rank_of = {int(row): rank for rank, row in enumerate(rows)}
    records: list[Record] = [{}] * len(rows)
    for row in pick(data_file(stored, dataset), rows.tolist()):
        rank = rank_of[row.index]
        extra = {"ntksel_score": float(scores[rank]), "ntksel_rank": rank + 1}
        records[rank] = {**_FORMATS[schema](row), **extra}
    return records


def _messages(row: Row) -> Record:
    return {"messages": [{"role": message.role, "content": message.content} for message in row.messages]}


def _pair(row: Row, schema: str) -> tuple[str, str, str]:
    """System text, prompt and answer of a row of one exchange. DataError for any other."""
    system = "\n".join(message.content for message in row.messages if message.role == "system")
    turns = [message for message in row.messages if message.role != "system"]
    if [turn.role for turn in turns] != ["user", "assistant"]:
        raise DataError(
            f"--format {schema}: the row {row.row_id!r} (line {row.line}) is no single question and answer.",
            "Give --format messages.",
        )
    return system, turns[0].content, turns[1].content


def _alpaca(row: Row) -> Record:
    system, prompt, answer = _pair(row, "alpaca")
    return {"instruction": prompt, "input": "", "output": answer, "system": system}


def _prompt_completion(row: Row) -> Record:
    system, prompt, answer = _pair(row, "prompt-completion")
    if system:
        raise DataError(
            f"--format prompt-completion: the row {row.row_id!r} (line {row.line}) has a system turn.",
            "Give --format messages.",
        )
    return {"prompt": prompt, "completion": answer}


_FORMATS: Final[dict[str, Callable[[Row], Record]]] = {
    "own": lambda row: row.raw,
    "messages": _messages,
    "alpaca": _alpaca,
    "prompt-completion": _prompt_completion,
}


def _write_table(stored: store.Store, path: Path, records: Sequence[Record]) -> None:
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {name: [record.get(name) for record in records] for name in names}
    if path.suffix == ".parquet":
        _write_parquet(stored, path, columns)
        return
    from datasets import Dataset

    built = stored.tmp_path()
    Dataset(_table(columns)).save_to_disk(built)
    if path.is_dir():
        shutil.rmtree(path)
    shutil.move(built, path)


def _write_parquet(stored: store.Store, path: Path, columns: dict[str, Any]) -> None:
    from pyarrow import parquet

    built = stored.tmp_path()
    built.parent.mkdir(exist_ok=True)
    parquet.write_table(_table(columns), built)
    store.write_bytes(path, built.read_bytes())
    built.unlink()


def _table(columns: dict[str, Any]) -> Any:
    import pyarrow

    try:
        return pyarrow.table(columns)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"The rows' columns are of mixed types, which a table can't hold: {error}.", "Export .jsonl, or --format."
        ) from error


def _checksum(path: Path) -> str:
    """SHA-256 of the file, or of a folder's data files by name; not of datasets' state.json, which is drawn anew."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("*.arrow")):
        digest.update(file.read_bytes())
    return digest.hexdigest()

"""Write a selection's rows for training: the pool's own columns or a trainer's schema, with score and rank.

The manifest beside the file says what it was made of, down to digests and the file's own checksum.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import store
from ntkcli.choices import Format
from ntkcli.data import DataFile, Message, Row, RowError, pick
from ntkcli.data import tools as calls_format
from ntkcli.data.rows import canonical_row
from ntkcli.data.schemas import detect, read_row
from ntkcli.errors import DataError, UsageError
from ntkcli.progress import Progress, Silent, counted
from ntkcli.steps.selections.export_values import json_lines, read_back, table_of
from ntkcli.steps.shared.datasets import data_file
from ntkcli.steps.shared.outputs import (
    Inputs,
    check_output,
    checksum,
    manifest_of,
    output_path,
    publish_output,
    replace_folder,
    write_output,
)

Record = dict[str, Any]
SUFFIXES: Final = (".jsonl", ".parquet")


def check_exports(
    stored: store.Store, export: str | Path | None, scores: str | Path | None, inputs: Inputs, *, force: bool
) -> None:
    """UsageError, before anything is chosen or made, for a file of either option that must not be written.

    Also for a suffix that can't be written, and for one file under both options.
    """
    if export is not None:
        path = output_path(export)
        if path.suffix not in ("", *SUFFIXES):
            raise UsageError(
                f"--export {export}: {path.suffix} can't be written.", "Give .jsonl, .parquet or no suffix."
            )
        if path.is_dir() and not (path.suffix == "" and (path / "state.json").is_file()):
            raise UsageError(f"--export {export} is a folder that save_to_disk didn't write.", "Give a new name.")
        check_output(export, option="--export", inputs=inputs, stored=stored, force=force)
    if scores is not None:
        if output_path(scores).suffix != ".parquet":
            raise UsageError(f"--export-scores {scores} can't be written.", "Give a .parquet file.")
        if export is not None and output_path(export) == output_path(scores):
            raise UsageError("--export and --export-scores name one file.", "Give each a name of its own.")
        check_output(scores, option="--export-scores", inputs=inputs, stored=stored, force=force)


def is_exported(path: str | Path, selection: store.Artefact | None, schema: Format) -> bool:
    """Whether the file is this very export already: a finished command that is given again has nothing to write."""
    if selection is None or not selection.complete:
        return False
    said = manifest_of(path) or {}
    if (said.get("fingerprint"), said.get("format")) != (selection.fingerprint, schema):
        return False
    return output_path(path).exists() and checksum(output_path(path)) == said.get("sha256")


def export_rows(
    stored: store.Store, dataset: store.Artefact, selection: store.Artefact, path: str | Path, *,
    schema: Format = Format.OWN, progress: Progress | None = None,
) -> None:  # fmt: skip
    """Write the rows in rank order, with `ntksel_score` and `ntksel_rank` (from 1), and the manifest.

    `path` ends in .jsonl or .parquet, or has no suffix: a folder by `datasets.save_to_disk`; `check_exports` has passed
    it. `schema` "own" keeps the pool's columns. What is read back from it are the same rows; in tables a column or key
    that a row lacks is null. The same selection exported again gives the same bytes.

    Raises:
        DataError: a row doesn't fit the schema, or the format can't hold its values; it says which one.
    """
    file = data_file(stored, dataset)
    records = _records(file, selection, schema, progress or Silent())
    named = output_path(path)
    made = {
        "selection": selection.name,
        "fingerprint": selection.fingerprint,
        "spec": selection.spec,
        "made_from": lineage(stored, selection),
        "digest": selection.digest(),
        "data": {"name": dataset.name, "digest": dataset.spec["digest"], "file": dataset.attrs["source"]},
        "rows": len(records),
        "format": schema,
        "trainers": trainer_entries(named, schema, system=any(record.get("system") for record in records)),
    }
    if named.suffix == ".jsonl":
        write_output(path, json_lines(records), made)
        return
    table = checked_table(records, file if schema == "own" else None)
    (_write_parquet if named.suffix == ".parquet" else _write_folder)(path, table, made)


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


def export_scores(stored: store.Store, dataset: store.Artefact, path: str | Path) -> None:
    """Every finished score of the pool as parquet: `row`, `row_id`, `source` and a float32 column for each score."""
    import pyarrow

    name = dataset.name.partition("/")[2]
    labels = [str(label) for label in dataset.attrs["sources"]]
    ids = [pyarrow.array(arrays["row_id"], pyarrow.string()) for _, arrays in dataset.blocks(["row_id"])]
    columns: dict[str, Any] = {
        "row": np.arange(dataset.n),
        "row_id": pyarrow.concat_arrays(ids),
        "source": pyarrow.array(labels, pyarrow.string()).take(pyarrow.array(dataset.read("source"))),
    }
    used: dict[str, str] = {}
    for score in stored.artefacts(store.Kind.SCORE):
        if score.attrs["data"] == name and score.complete:
            columns[f"score_{score.name.partition('/')[2]}"] = score.read("score")
            used[score.name] = score.fingerprint
    _write_parquet(path, pyarrow.table(columns), {"scores": used, "data": {"name": dataset.name}})


def _records(file: DataFile, selection: store.Artefact, schema: Format, progress: Progress) -> list[Record]:
    rows, scores = selection.read("row"), selection.read("score")
    rank_of = {int(row): rank for rank, row in enumerate(rows)}
    records: list[Record] = [{}] * len(rows)
    picked = pick(file, rows.tolist())
    for row in counted(picked, progress, f"rows of {selection.name}", total=len(rows), unit="rows"):
        rank = rank_of[row.index]
        extra = {"ntksel_score": float(scores[rank]), "ntksel_rank": rank + 1}
        records[rank] = {**shaped(row, schema), **extra}
    return records


def shaped(row: Row, schema: Format) -> Record:
    """A row in a trainer's columns, or in its own. DataError if the schema can't hold it."""
    return _FORMATS[schema](row)


def checked_table(records: Sequence[Record], file: DataFile | None) -> Any:
    """The records as an arrow table. DataError if it would give back another row than one of them.

    Rows are read as those of the pool's `file`, or by the columns that they have.
    """
    table = table_of(records)
    for rank, (record, back) in enumerate(zip(records, read_back(table), strict=True), start=1):
        schema, columns = (file.schema, file.columns) if file else (detect(record), {})
        if schema is None:
            continue
        row = read_row(schema, record, index=0, line=rank, columns=columns)
        try:
            same = canonical_row(read_row(schema, back, index=0, line=rank, columns=columns)) == canonical_row(row)
        except RowError:
            same = False
        if not same:
            raise DataError(
                f"A table would give back another row than {row.row_id!r} (rank {rank}): mixed types in a column.",
                "Export .jsonl, or a trainer's columns by --format.",
            )
    return table


def _messages(row: Row) -> Record:
    """All turns, with what they say beside their content, as `ntkcli.data.conversations` reads them."""
    if not row.messages:
        raise DataError(
            f"--format messages: the row {row.row_id!r} (line {row.line}) holds token ids.", "Leave --format out."
        )
    tools = {"tools": json.loads(row.tools)} if row.tools else {}
    turns = [_turn(message, learned=i >= row.context) for i, message in enumerate(row.messages)]
    return {"messages": turns, **tools}


def _turn(message: Message, *, learned: bool) -> Record:
    turn: Record = {"role": message.role, "content": message.content}
    if message.role == "assistant" and not (learned and message.learned):
        turn["weight"] = 0
    if message.calls:
        turn["tool_calls"] = calls_format.for_template(message.calls, as_text=True)
    given = {"reasoning_content": message.reasoning, "name": message.name, "tool_call_id": message.call_id}
    return turn | {key: value for key, value in given.items() if value}


def _pair(row: Row, schema: str) -> tuple[str, str, str]:
    """System text, prompt and answer of a row of one exchange. DataError for any other."""
    turns = list(row.messages)
    system = turns.pop(0).content if turns and turns[0].role == "system" and turns[0].content else ""
    more = row.tools or any(turn.reasoning or turn.calls for turn in turns)
    if more or [turn.role for turn in turns] != ["user", "assistant"]:
        raise DataError(
            f"--format {schema}: the row {row.row_id!r} (line {row.line}) is not a single question and answer.",
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


def _write_parquet(path: str | Path, table: Any, made: dict[str, Any]) -> None:
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    write_output(path, sink.getvalue().to_pybytes(), made)


def _write_folder(path: str | Path, table: Any, made: dict[str, Any]) -> None:
    """Build the folder next to its place, then put it there as a whole."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    target = output_path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as built:
        folder = Path(built) / target.name
        Dataset(table).save_to_disk(folder)
        publish_output(path, lambda place: replace_folder(folder, place), made, sha256=checksum(folder))

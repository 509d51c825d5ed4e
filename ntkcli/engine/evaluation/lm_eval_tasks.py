"""Tasks of lm-evaluation-harness, by name or by YAML file: loaded, checked, digested by content. Loads no model.

A digest covers what a value can depend on: the task's configuration with all that it includes, the code of its
functions where that is not lm_eval's own, and the documents that are evaluated and shown as examples. Needs lm_eval.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.group import Group
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

import store
from ntkcli.engine.evaluation.lm_eval_code import PACKAGE, members_of, read_tree, refuse_code, templates_in_a_sandbox
from ntkcli.engine.evaluation.lm_eval_metrics import require_metric
from ntkcli.errors import NtkselError, UsageError
from ntkcli.identity import digest_file

SEED = 1234
"""Of the draw of few-shot examples, the harness's own default."""
ELSEWHERE = ("dataset_kwargs", "task_alias", "tag")
"""Of a task's configuration, what no value depends on once its documents are digested."""
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How tasks are asked, in the words of `ntksel eval`; `limit` counts documents of each task."""

    num_fewshot: int | None = None
    limit: int | None = None
    apply_chat_template: bool = False

    def spec(self) -> dict[str, Any]:
        """What of it changes a value."""
        return {
            "num_fewshot": self.num_fewshot,
            "limit": self.limit,
            "apply_chat_template": self.apply_chat_template,
        }


@dataclass(frozen=True, slots=True)
class HarnessTasks:
    """Loaded tasks by name, groups by name (as lm_eval's objects), and what they were made of.

    `digests` are hex, of tasks and groups; `retained` names the tasks and groups that `--retain` brought; `notes` are
    lines for the user.
    """

    tasks: dict[str, Any]
    groups: dict[str, Any]
    retained: tuple[str, ...]
    digests: dict[str, str]
    notes: tuple[str, ...]

    @property
    def generates(self) -> bool:
        """Whether a task has answers written."""
        return any(task.OUTPUT_TYPE == "generate_until" for task in self.tasks.values())

    def averaged(self) -> dict[str, dict[str, Any]]:
        """The groups that have a value of their own: their `tasks`, and whether these count by their size."""
        return {
            name: {
                "tasks": [task.task_name for task in group.get_all_tasks()],
                "by_size": bool(group.aggregate_metric_list[0].weight_by_size),
            }
            for name, group in self.groups.items()
            if group.has_aggregation
        }


def load_harness_tasks(
    wanted: Sequence[str], retained: Sequence[str], options: TaskOptions, *, trust: bool
) -> HarnessTasks:
    """The tasks that names and YAML files stand for, groups and tags opened, in order; few-shot examples are settled.

    Raises:
        UsageError: there is no such task, its data can't be had, it would run code that is not trusted, it stands
            twice, it has no metric of single items, or it can't give that many examples.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    managers = _Managers()
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    names: list[str] = []
    with templates_in_a_sandbox(trusted=trust):
        for place, reference in enumerate([*wanted, *retained]):
            own_tasks, own_groups = managers.load(reference, trust=trust)
            if twice := own_tasks.keys() & tasks.keys():
                raise UsageError(
                    f"--task lm_eval:{reference}: the task {min(twice)} is among the others already.",
                    "Give each task once, and a group or its tasks.",
                )
            tasks |= own_tasks
            groups |= own_groups
            names += [*own_tasks, *own_groups] if place >= len(wanted) else []
        for name, task in tasks.items():
            _refuse_kinds(task)
            require_metric(task)
            with user_errors(name):
                _require_examples(task, options)
        digests = {}
        for name, task in tasks.items():
            with user_errors(name):
                digests[name] = _digest_task(task, options)
    digests |= {name: _digest_group(group) for name, group in groups.items() if group.has_aggregation}
    notes = [note for task in tasks.values() if (note := _settle_examples(task, options))]
    return HarnessTasks(tasks, groups, tuple(names), digests, tuple(notes))


@contextlib.contextmanager
def user_errors(what: str) -> Iterator[None]:
    """Whatever a task's file, templates or data raise is about them: a UsageError with its first line."""
    try:
        yield
    except (NtkselError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"--task lm_eval:{what}: lm_eval can't run it: {type(error).__name__}: {reason}",
            "Check that its data can be reached (HF_HUB_OFFLINE=1 allows cached data only); a .yaml task of your own "
            "may name local files.",
        ) from error


class _Managers:
    """lm_eval's task managers, made as they are needed: the index of its own 14,000 tasks takes 20 s."""

    def __init__(self) -> None:
        self._own: TaskManager | None = None

    def load(self, reference: str, *, trust: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """The reference's tasks and groups by name, the group that it names first."""
        manager, target, file = self._find(reference)
        if file is not None and not trust:
            refuse_code(file, manager.task_index)
        with user_errors(reference):
            found = manager.load([target])
        return dict(found["tasks"]), dict(found.get("groups", {}))

    def _find(self, reference: str) -> tuple[TaskManager, str, Path | None]:
        """The manager that knows the reference, the name it has there, and the file if it is the user's own."""
        if not reference.endswith(SUFFIXES):
            self._own = self._own or TaskManager()
            if reference not in self._own.task_index:
                raise UsageError(
                    f"--task lm_eval:{reference}: lm_eval has no such task.", "`lm-eval ls tasks` lists them."
                )
            return self._own, reference, None
        path = Path(reference).expanduser().resolve()
        tree = read_tree(path)
        with user_errors(reference):
            config = load_yaml(path, resolve_func=False)
        if not config.keys() & {"task", "group"}:
            raise UsageError(f"--task lm_eval:{reference}: the file names no task.", "Begin it with `task: NAME`.")
        if "group" not in config:
            return TaskManager(include_defaults=False), str(path), path
        manager = TaskManager(include_path=str(path.parent), include_defaults=False)
        members = set(members_of(tree))
        if members - manager.task_index.keys():
            manager = TaskManager(include_path=str(path.parent))
        if missing := sorted(members - manager.task_index.keys()):
            raise UsageError(
                f"--task lm_eval:{reference}: the group names {missing[0]}, which is a task neither of {path.parent} "
                "nor of lm_eval.",
                "Put its file (*.yaml) into that folder.",
            )
        group = str(config["group"])
        if (entry := manager.task_index.get(group)) is None or entry.yaml_path.resolve() != path:
            raise UsageError(
                f"--task lm_eval:{reference}: lm_eval finds no group {group} there, or finds it in another file.",
                "Give the file a name in .yaml and the group a name of its own.",
            )
        return manager, group, path


def _refuse_kinds(task: Any) -> None:
    """UsageError for tasks that this program does not run."""
    if getattr(task, "UNSAFE_CODE", False):
        raise UsageError(
            f"--task lm_eval:{task.task_name} runs code that the model has written, which ntksel never does.",
            "Leave the task out, or run it with lm_eval in a sandbox.",
        )
    if getattr(task, "MULTIMODAL", False):
        raise UsageError(f"--task lm_eval:{task.task_name} shows pictures or sound.", "Choose a task of text.")


def shots_of(task: Any, options: TaskOptions) -> int:
    """The examples before each question. A task whose file fixes 0 keeps 0, as the harness has it."""
    own = task.get_config("num_fewshot")
    return int(options.num_fewshot if options.num_fewshot is not None and own != 0 else own or 0)


def _settle_examples(task: Any, options: TaskOptions) -> str:
    """Set the number of examples on the task, and say so where the option can't change it."""
    fixed = task.get_config("num_fewshot") == 0 and bool(options.num_fewshot)
    task.set_config(key="num_fewshot", value=shots_of(task, options))
    return f"{task.task_name} fixes its few-shot examples at 0; --num-fewshot does not change it" if fixed else ""


def _require_examples(task: Any, options: TaskOptions) -> None:
    shots = shots_of(task, options)
    if not shots or task.OUTPUT_TYPE == "loglikelihood_rolling":
        return
    examples = task.fewshot_docs()
    count = 0 if examples is None else len(list(examples))
    own_split = getattr(getattr(task, "fewshot_cfg", None), "split", None)
    if own_split == task.get_config("test_split"):  # drawn with one to spare, should the question itself be drawn
        count -= 1
    if shots > count:
        raise UsageError(
            f"--task lm_eval:{task.task_name}: {shots} few-shot examples are wanted, and it has {max(0, count)}.",
            f"Give --num-fewshot {max(0, count)} or less.",
        )


def _digest_task(task: Any, options: TaskOptions) -> str:
    config = task.config.to_dict(keep_callable=True)
    path = config.get("dataset_path")
    if isinstance(path, str) and Path(path).exists():
        del config["dataset_path"]  # a folder may move: its documents count
    if isinstance(config.get("metadata"), dict):
        config["metadata"] = {key: value for key, value in config["metadata"].items() if key != "config_source"}
    parts = {
        "class": _plain(type(task)),
        "config": _plain({key: value for key, value in config.items() if key not in ELSEWHERE}),
        "documents": _digest_documents(task.eval_docs, options.limit),
        "examples": _digest_documents(task.fewshot_docs() or [], None) if shots_of(task, options) else None,
    }
    return store.fingerprint(parts)


def _digest_group(group: Group) -> str:
    """Of what its value is made of: members and how they are averaged."""
    averages = [_plain(vars(each)) for each in group.aggregate_metric_list or []]
    return store.fingerprint({"members": [task.task_name for task in group.get_all_tasks()], "averages": averages})


def _digest_documents(documents: Iterable[Any], limit: int | None) -> str:
    digest = hashlib.sha256()
    for number, document in enumerate(documents):
        if limit is not None and number >= limit:
            break
        text = json.dumps(document, sort_keys=True, ensure_ascii=False, default=_text)
        digest.update(text.encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()[:32]


def _text(value: Any) -> str:
    """What JSON has no word for: bytes by their digest, all else as it shows itself."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes | bytearray) else repr(value)


def _plain(value: Any) -> Any:
    """A configuration as JSON: functions and classes by their code where it is not an installed package's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    if isinstance(value, functools.partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
    if callable(value):
        return _plain_code(value)
    return value if value is None or isinstance(value, str | int | bool) else repr(value)


def _plain_code(value: Any) -> str:
    name = getattr(value, "__qualname__", type(value).__qualname__)
    try:
        file = Path(inspect.getsourcefile(value if hasattr(value, "__qualname__") else type(value)) or "")
    except TypeError:  # of C
        return str(name)
    if not file.is_file() or file.resolve().is_relative_to(PACKAGE) or "site-packages" in file.parts:
        return f"{getattr(value, '__module__', '')}.{name}"
    beside = {path.name: digest_file(path) for path in sorted(file.parent.glob("*.py"))}  # what it may import
    return f"{name} {store.fingerprint(beside)}"

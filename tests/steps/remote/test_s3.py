"""Push, pull, info and explain against an S3 server on loopback, and servers that refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import store
from ntkcli.errors import NtkselError
from ntkcli.steps.remote.manifest import BEGUN, MANIFEST
from ntkcli.steps.remote.place import Place
from tests.commands.conftest import Cli, cli
from tests.steps.remote.kit import Breaks, tree, use_s3

__all__ = ["cli"]
URL = "s3://bucket/team/med"


def test_push_break_go_on_pull(
    bucket: Callable[[str], Any], med: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        first = Breaks(broken, after=25)
        assert cli("push", med, URL).code == 130
    assert cli("info", URL).error_line.startswith("error: s3://bucket/team/med is half pushed")
    ran = cli("pull", URL, tmp_path / "back")
    assert ran.code == 10
    assert f"Finish it where the store is: `ntksel push STORE {URL}`" in ran.error_line
    with monkeypatch.context() as counted:
        second = Breaks(counted)
        ran = cli("push", med, URL, "--json")
    assert ran.code == 0, ran.err
    sent = [path for path in second.written if path not in (BEGUN, MANIFEST)]
    assert json.loads(ran.out)["sent"] == len(sent) == len(tree(med)) - len(first.written) + 1
    assert not {*first.written} & {*sent}
    ran = cli("pull", URL, tmp_path / "back")
    assert ran.code == 0, ran.err
    assert tree(tmp_path / "back") == tree(med)
    listed = bucket("list_objects_v2")(Bucket="bucket", Prefix="team/med/")["Contents"]
    assert {each["Key"].removeprefix("team/med/") for each in listed} == {*tree(med), MANIFEST}
    everything = "".join([ran.out, ran.err, *(p.read_text() for p in (tmp_path / "back").rglob("*.json"))])
    assert "test-secret-key" not in everything
    assert "AKIATESTACCESS" not in everything


def test_unchanged_files_are_known_by_what_the_server_lists(
    bucket: Callable[[str], Any], med: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("push", med, URL).code == 0
    bucket("put_object")(Bucket="bucket", Key="team/med/arrays.zarr/scores/near/score/c/0", Body=b"x" * 36)

    def never(place: Place, path: str) -> str | None:
        raise AssertionError(path)

    with monkeypatch.context() as listed:
        listed.setattr(Place, "sha256", lambda place, path: None if "scores/near" in path else never(place, path))
        assert json.loads(cli("push", med, URL, "--json").out)["sent"] == 1


def test_info_and_explain_read_in_place(
    bucket: Callable[[str], Any], med: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("push", med, URL).code == 0
    before = bucket("list_objects_v2")(Bucket="bucket")["Contents"]
    here, there = (json.loads(cli("info", place, "--json").out) for place in (med, URL))
    assert there["path"] == URL
    known = {each["name"]: each for each in here["artefacts"] if each["name"] != "runs/broken"}
    for each in there["artefacts"]:
        mine = known.pop(each["name"])
        skipped = {"size_bytes"} if each["kind"] == "run" else set()  # the trainer's checkpoints are not pushed
        assert {**each, **dict.fromkeys(skipped)} == {**mine, **dict.fromkeys(skipped)}
    assert known == {}
    read: list[str] = []
    inner = Place.read
    with monkeypatch.context() as seen:
        seen.setattr(Place, "read", lambda place, path: (read.append(path), inner(place, path))[1])
        shown = cli("explain", URL, "picked", "3", "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out) == json.loads(cli("explain", med, "picked", "3", "--json").out)
    assert not [path for path in read if "features/pool/embed/embedding/c/" in path]
    assert [path for path in read if "scores/near/score/c/" in path]
    after = bucket("list_objects_v2")(Bucket="bucket")["Contents"]
    assert [each["ETag"] for each in after] == [each["ETag"] for each in before]


@pytest.mark.parametrize(
    "words",
    [
        ("featurize", URL, "--data", "x", "--name", "x", "--kind", "embed", "--model", "m"),
        ("score", URL, "--pool", "p", "--domain", "d", "--method", "mean", "--name", "s"),
        ("select", URL, "--score", "s", "-n", "3", "--name", "c"),
        ("finetune", URL, "--model", "m", "--train", "x", "--name", "r"),
        ("rm", URL, "scores/near"),
        ("report", URL),
        ("push", URL, "s3://bucket/other"),
    ],
)
def test_what_writes_says_pull(words: tuple[str, ...], cli: Cli) -> None:
    ran = cli(*words)
    assert ran.code == 2
    assert f"ntksel {words[0]} works on a store in a folder, and {URL} is a URL" in ran.error_line
    assert f"`ntksel pull {URL} FOLDER`" in ran.error_line


@pytest.mark.parametrize(
    "words", [("info", URL, "--verify"), ("info", URL, "--repair"), ("explain", URL, "c", "1", "--data", "x")]
)
def test_what_needs_all_or_writes_says_pull(words: tuple[str, ...], cli: Cli) -> None:
    ran = cli(*words)
    assert ran.code == 2
    assert f"`ntksel pull {URL} FOLDER`" in ran.error_line


def test_a_bucket_that_does_not_exist(bucket: Callable[[str], Any], med: Path, tmp_path: Path, cli: Cli) -> None:
    for words in (
        ("push", med, "s3://missing/med"),
        ("pull", "s3://missing/med", tmp_path / "b"),
        ("info", "s3://missing/med"),
    ):
        ran = cli(*words)
        assert ran.code == 10
        assert "there is no missing. Make it with the tools of its provider" in ran.error_line
    assert [each["Name"] for each in bucket("list_buckets")()["Buckets"]] == ["bucket"]


class Refuses(BaseHTTPRequestHandler):
    """Answers 403 to everything, as S3 words it."""

    def answer(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing is logged."""


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_s3(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def test_access_that_is_refused(refusing: None, med: Path, tmp_path: Path, cli: Cli) -> None:
    for words in (("push", med, URL), ("pull", URL, tmp_path / "back"), ("info", URL)):
        ran = cli(*words)
        assert ran.code == 1
        assert "access is refused" in ran.error_line
        assert "Check the credentials that the library finds" in ran.error_line
        assert "test-secret-key" not in ran.err
    assert not (tmp_path / "back").exists()


def test_no_credentials(bucket: Callable[[str], Any], med: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    ran = cli("push", med, URL)
    assert ran.code == 1
    assert "no credentials were found. Set them up" in ran.error_line


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, med: Path) -> None:
    use_s3(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(NtkselError, match="Nothing is lost"):
        Place.of(URL).list()


def test_a_password_in_the_url_is_never_shown(med: Path, cli: Cli) -> None:
    for words in (
        ("push", med, "s3://me:hunter2@bucket/med"),
        ("info", "s3://me:hunter2@bucket/med"),
        ("rm", "s3://me:hunter2@bucket/med", "x"),
    ):
        ran = cli(*words)
        assert ran.code == 2
        assert "hunter2" not in ran.out + ran.err


def test_damage_at_the_url_is_told_by_its_name(bucket: Callable[[str], Any], med: Path, cli: Cli) -> None:
    assert cli("push", med, URL).code == 0
    key = "team/med/arrays.zarr/scores/near/score/c/1"
    bucket("put_object")(Bucket="bucket", Key=key, Body=b"x" * 36)
    ran = cli("explain", URL, "picked", "3")
    assert ran.code == 1
    assert f"{URL}/arrays.zarr/scores/near/score/c/1 differs from its digest" in ran.error_line
    assert store.Store.open(med).get("scores/near").complete

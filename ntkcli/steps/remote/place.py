"""A folder that fsspec reaches: files read, written and listed there, and errors that say how to fix them.

Credentials are those that the library of the file system finds by itself. None is taken, kept or shown here.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from ntkcli.errors import IncompleteError, NtkselError, UsageError
from ntkcli.model_files import reason_of
from ntkcli.paths import remote_url

_FLAT: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""File systems without folders: a file is written under any name, and making a folder would make a bucket."""
_NAMED_BY_USER: Final = frozenset({"abfs", "abfss", "sftp", "ssh"})
"""URLs in which a name before `@` is no secret: a container's, a user's."""
_MD5_DIGITS: Final = 32
_READ_BYTES: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class There:
    """A file as a listing shows it: its bytes, what changes with its content, and its MD5 where that is known."""

    size: int
    mark: str | None
    md5: str | None


class Place:
    """The folder at `url`; `of` finds its file system. Every method may be called by several threads at once."""

    def __init__(self, url: str, system: Any, root: str) -> None:
        self.url = url
        self._system = system
        self._root = root.rstrip("/")
        self._made: set[str] = set()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, reference: str | Path) -> Self:
        """The folder that a URL names.

        Raises:
            UsageError: it is not a URL, holds a password, or is of a file system whose library is not installed.
        """
        url = remote_url(reference)
        if url is None:
            path = Path(reference).expanduser().absolute()
            raise UsageError(f"{reference} is not a URL.", f"Give s3://BUCKET/NAME, or for a folder file://{path}.")
        _refuse_secrets(url)
        scheme = url.partition("://")[0]
        try:
            from fsspec.core import url_to_fs

            system, root = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
        except ImportError as error:
            library = 'pip install "ntksel[remote]"' if scheme in ("s3", "s3a") else reason_of(error)
            raise UsageError(f"{url}: the library for {scheme}:// is missing.", f"Install it: {library}") from error
        except ValueError as error:
            raise UsageError(f"{url}: {reason_of(error)}.", "Give a URL as s3://BUCKET/NAME.") from error
        if not str(root).strip("/"):
            raise UsageError(f"{url} names no folder.", f"Give {scheme}://BUCKET/NAME.")
        return cls(url.rstrip("/"), system, str(root))

    def list(self) -> dict[str, There]:
        """All files below the folder by their path in it; none if there is no such folder."""
        with self._explained():
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._root, detail=True)
            except FileNotFoundError:
                self.require_bucket()
                return {}
        start = len(self._root) + 1
        return {path[start:]: _there(info) for path, info in found.items() if path.startswith(f"{self._root}/")}

    def read(self, path: str) -> bytes | None:
        """A whole file; None if there is none."""
        with self._explained():
            try:
                return bytes(self._system.cat_file(f"{self._root}/{path}"))
            except FileNotFoundError:
                return None

    def sha256(self, path: str) -> str | None:
        """The SHA-256 of a file, read piece by piece; None if there is none."""
        found = hashlib.sha256()
        with self._explained():
            try:
                with self._system.open(f"{self._root}/{path}", "rb") as file:
                    while data := file.read(_READ_BYTES):
                        found.update(data)
            except FileNotFoundError:
                return None
        return found.hexdigest()

    def write(self, path: str, data: bytes) -> None:
        """Put a whole file there."""
        with self._explained():
            self._make_parent(path)
            self._system.pipe_file(f"{self._root}/{path}", data)

    def upload(self, path: str, file: Path) -> None:
        """Put a large file there, piece by piece."""
        with self._explained():
            self._make_parent(path)
            self._system.put_file(str(file), f"{self._root}/{path}")

    def download(self, path: str, file: Path) -> bool:
        """Bring a large file, piece by piece; False if there is none."""
        with self._explained():
            try:
                self._system.get_file(f"{self._root}/{path}", str(file))
            except FileNotFoundError:
                file.unlink(missing_ok=True)
                return False
        return True

    def remove(self, path: str) -> None:
        """Remove a file; nothing if there is none."""
        with self._explained():
            try:
                self._system.rm_file(f"{self._root}/{path}")
            except FileNotFoundError:
                return

    def require_bucket(self) -> None:
        """IncompleteError if the bucket, or the file system's own root of the folder, is not there."""
        scheme, _, rest = self.url.partition("://")
        bucket = rest.partition("/")[0]
        if scheme not in _FLAT or scheme == "memory":
            return
        with self._explained():
            try:
                self._system.ls(bucket, detail=False)
            except FileNotFoundError as error:
                raise _no_bucket(self.url, bucket) from error

    def _make_parent(self, path: str) -> None:
        if self.url.partition("://")[0] in _FLAT:
            return
        parent = f"{self._root}/{path}".rpartition("/")[0]
        with self._lock:
            if parent not in self._made:
                self._system.makedirs(parent, exist_ok=True)
                self._made.add(parent)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the library as ours: where it was, what it said, how to fix it."""
        try:
            yield
        except NtkselError:
            raise
        except FileNotFoundError as error:
            raise _no_bucket(self.url, self.url.partition("://")[2].partition("/")[0]) from error
        except PermissionError as error:
            raise NtkselError(
                f"{self.url}: access is refused ({reason_of(error)}).",
                "Check the credentials that the library finds (for s3: AWS_PROFILE, `aws sts get-caller-identity`) and "
                "their rights to list, read, write and delete there.",
            ) from error
        except Exception as error:  # of one of many libraries, each with errors of its own
            if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"):
                how = "Set them up as the library wants them (for s3: `aws configure`, AWS_PROFILE, a role)."
                raise NtkselError(f"{self.url}: no credentials were found.", how) from error
            said = f"{self.url}: {type(error).__name__}: {reason_of(error)}."
            raise NtkselError(said, "Nothing is lost: fix it and run the same command again.") from error


def _no_bucket(url: str, bucket: str) -> IncompleteError:
    return IncompleteError(f"{url}: there is no {bucket}.", "Make it with the tools of its provider, or fix the URL.")


def _refuse_secrets(url: str) -> None:
    """UsageError, which does not show it, if a URL holds a password or a token."""
    scheme, _, rest = url.partition("://")
    account, at, _ = rest.partition("/")[0].rpartition("@")
    if "::" in url:
        raise UsageError("A chain of URLs is not supported.", "Give one URL: s3://BUCKET/NAME.")
    if at and (":" in account or scheme not in _NAMED_BY_USER):
        raise UsageError(
            f"The {scheme}:// URL holds a name and a password before the @; it is not used and not shown.",
            "Leave them out: the library finds credentials itself (environment, its own files, the machine's role).",
        )
    if urlsplit(url).query or urlsplit(url).fragment:
        raise UsageError(
            f"The {scheme}:// URL has a part behind ? or #, where tokens are kept; it is not used and not shown.",
            f"Give {scheme}://BUCKET/NAME.",
        )


def _there(info: Mapping[str, Any]) -> There:
    """What a listing says of a file. Times are not looked at: the clocks of two machines differ."""
    tag = str(info.get("ETag") or info.get("etag") or "").strip('"')
    md5: str | None = tag.lower() if len(tag) == _MD5_DIGITS and _is_hex(tag) else None
    given = info.get("md5Hash") or (info.get("content_settings") or {}).get("content_md5")
    if given:
        md5 = (bytes(given) if isinstance(given, bytes | bytearray) else base64.b64decode(given)).hex()
    return There(int(info.get("size") or 0), tag or md5, md5)


def _is_hex(text: str) -> bool:
    return all(char in "0123456789abcdefABCDEF" for char in text)

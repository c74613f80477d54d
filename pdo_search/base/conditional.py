"""Writes under a condition: of several processes that replace one version of an object, one does.

Owns which stores know such writes and how each is asked. Arrow's file systems cannot ask for them
(apache/arrow issue 44281), so an object store is asked by its own client, where that is installed:
boto3 for ``s3://``, google-cloud-storage for ``gs://``. What is decided by them is known above.

Some stores with S3's interface take the condition and ignore it, which would let everybody win: a
process believes none before it was refused what it should be (``Conditional.is_kept``).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from pdo_search.base.storage import Storage

__all__ = ["Conditional", "Unsupported", "Version", "conditional_on"]

T = TypeVar("T")

S3_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 10}
NEVER_A_TAG = '"00000000000000000000000000000000"'
BUSY = (408, 429)
"""Answers of the 400s that mean: later."""

_keeps: dict[tuple[str, str], bool] = {}
"""Whether the bucket at an address keeps its conditions, as far as this process has tried it."""


class Unsupported(Exception):
    """The store, its client or this user's rights know no such write: nothing was done."""


@dataclass(frozen=True)
class Version:
    """An object's content at one time.

    Attributes:
        data: the content.
        tag: the store's name of this version; empty where the content is all that tells.
    """

    data: bytes
    tag: str = ""


class Conditional(Protocol):
    """A folder whose objects change only under a condition. Names are relative to it.

    Methods raise ``Unsupported``, and ``OSError`` where the store does not answer; a write whose
    answer was lost may have been done, and is then refused when it is tried again.
    """

    def read(self, name: str) -> Version | None:
        """An object as it is now; None where there is none."""
        ...

    def write(self, name: str, data: bytes, instead_of: Version | None) -> Version | None:
        """Write an object if it is still that version, or if there is none.

        Returns:
            What was written; None where another was faster.
        """
        ...

    def delete(self, name: str, version: Version) -> None:
        """Delete an object if it is still that version."""
        ...

    def is_kept(self, name: str, written: Version) -> bool:
        """Whether the store keeps the condition of a write that it granted."""
        ...


def conditional_on(storage: Storage) -> Conditional | None:
    """The conditional writes of a storage; None where there are none."""
    if storage.is_local:
        return _Disk(storage)
    client = CLIENTS.get(urlsplit(storage.root).scheme)
    try:
        return client and client(storage)
    except (ImportError, Unsupported):
        return None


class _Disk:
    """A new file is linked to its name; whoever changes one holds a lock on its folder."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(self, name: str) -> Version | None:
        data = self._storage.read_if_there(name)
        return None if data is None else Version(data)

    def write(self, name: str, data: bytes, instead_of: Version | None) -> Version | None:
        if instead_of is None:
            return Version(data) if self._storage.create(name, data) else None
        with suppress(FileNotFoundError), self._alone_in_its_folder(name):
            if self.read(name) == instead_of:
                self._storage.write(name, data)
                return Version(data)
        return None

    def delete(self, name: str, version: Version) -> None:
        with suppress(FileNotFoundError), self._alone_in_its_folder(name):
            if self.read(name) == version:
                self._storage.delete(name)

    def is_kept(self, name: str, written: Version) -> bool:
        return True

    @contextmanager
    def _alone_in_its_folder(self, name: str) -> Iterator[None]:
        folder = Path(self._storage.root, name).parent
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):  # A file system without locks: new files are still exclusive.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class _Bucket:
    """Where the objects of a storage lie."""

    def __init__(self, storage: Storage) -> None:
        parts = urlsplit(storage.root)
        self._storage = storage
        self._bucket = parts.netloc.rpartition("@")[2]
        self._folder = unquote(parts.path).strip("/")

    def _key(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name


class _S3(_Bucket):
    def __init__(self, storage: Storage) -> None:
        import boto3
        from botocore.config import Config

        super().__init__(storage)
        parts = urlsplit(storage.root)
        self._client: Any = boto3.session.Session().client(
            "s3",
            aws_access_key_id=parts.username and unquote(parts.username),
            aws_secret_access_key=parts.password and unquote(parts.password),
            config=Config(retries={"total_max_attempts": 3, "mode": "standard"}, **S3_TIMEOUTS),
        )
        self._where = self._client.meta.endpoint_url, self._bucket
        if not _keeps.get(self._where, True):
            raise Unsupported

    def read(self, name: str) -> Version | None:
        def work() -> Version:
            found = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
            return Version(found["Body"].read(), found["ETag"])

        return self._asked(name, work)

    def write(self, name: str, data: bytes, instead_of: Version | None) -> Version | None:
        only = {"IfNoneMatch": "*"} if instead_of is None else {"IfMatch": instead_of.tag}

        def work() -> Version:
            place = {"Bucket": self._bucket, "Key": self._key(name)}
            return Version(data, self._client.put_object(**place, Body=data, **only)["ETag"])

        return self._asked(name, work)

    def delete(self, name: str, version: Version) -> None:
        place = {"Bucket": self._bucket, "Key": self._key(name)}
        self._asked(name, lambda: self._client.delete_object(**place, IfMatch=version.tag))

    def is_kept(self, name: str, written: Version) -> bool:
        """Whether S3, or what says that it is like it, refuses what it should.

        Tried once, with the caller's own object: what is not refused writes what is there.
        """
        if self._where not in _keeps:
            wrong = (None, Version(b"", NEVER_A_TAG))
            _keeps[self._where] = all(self.write(name, written.data, w) is None for w in wrong)
        return _keeps[self._where]

    def _asked(self, name: str, work: Callable[[], T]) -> T | None:
        """What S3 answers; None where the condition is not met, or there is no such object."""
        from botocore import exceptions

        def answered() -> T | None:
            try:
                return work()
            except (exceptions.NoCredentialsError, exceptions.ParamValidationError) as error:
                raise Unsupported(str(error)) from error
            except exceptions.BotoCoreError as error:
                raise OSError(str(error)) from error
            except exceptions.ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status in (409, 412) or error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                raise _failure(status, error) from error

        return self._storage.retried(name, answered)


class _Gcs(_Bucket):
    def __init__(self, storage: Storage) -> None:
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage import Client

        super().__init__(storage)
        try:
            self._client: Any = Client(project=None).bucket(self._bucket)
        except GoogleAuthError as error:
            raise Unsupported(str(error)) from error

    def is_kept(self, name: str, written: Version) -> bool:
        return True

    def read(self, name: str) -> Version | None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        def work() -> Version | None:
            while (blob := self._client.get_blob(self._key(name))) is not None:
                with suppress(PreconditionFailed, NotFound):  # Replaced in between.
                    same = {"if_generation_match": blob.generation}
                    return Version(blob.download_as_bytes(**same), str(blob.generation))
            return None

        return self._asked(name, work)

    def write(self, name: str, data: bytes, instead_of: Version | None) -> Version | None:
        def work() -> Version:
            blob = self._client.blob(self._key(name))
            only = 0 if instead_of is None else int(instead_of.tag)
            blob.upload_from_string(data, if_generation_match=only)
            return Version(data, str(blob.generation))

        return self._asked(name, work)

    def delete(self, name: str, version: Version) -> None:
        blob = self._client.blob(self._key(name))
        self._asked(name, lambda: blob.delete(if_generation_match=int(version.tag)))

    def _asked(self, name: str, work: Callable[[], T]) -> T | None:
        """What the store answers; None where the condition is not met."""
        from google.api_core.exceptions import GoogleAPICallError, PreconditionFailed
        from google.auth.exceptions import GoogleAuthError, TransportError

        def answered() -> T | None:
            try:
                return work()
            except PreconditionFailed:
                return None
            except TransportError as error:
                raise OSError(str(error)) from error
            except GoogleAuthError as error:
                raise Unsupported(str(error)) from error
            except GoogleAPICallError as error:
                raise _failure(error.code or 500, error) from error

        return self._storage.retried(name, answered)


CLIENTS: dict[str, Callable[[Storage], Conditional]] = {"s3": _S3, "gs": _Gcs, "gcs": _Gcs}


def _failure(status: int, error: Exception) -> Exception:
    """What an answer means: that the store is not well now, or that it will never do this."""
    final = (400 <= status < 500 and status not in BUSY) or status == 501
    return Unsupported(str(error)) if final else OSError(str(error))

"""Folders of servers by their address: reading and writing their files through fsspec, with patience.

Of fsspec's protocols those of `PACKAGES` are accepted, one at a time: none that runs a command, unpacks or opens
another file. Secrets come from the environment or from where the packages look for them, never from an address: an
address is written into checkpoints.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from yolov7.config import InputError, RunError, atomic_path, reason_of
from yolov7.config.messages import without_secrets

logger = logging.getLogger(__name__)

T = TypeVar("T")
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}  # what fsspec needs for each
CONNECT, READ = 10.0, 60.0  # seconds without an answer
PATIENCE = 300.0  # seconds of trying again
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0  # seconds between two tries
CHUNK = 1 << 24  # bytes of one request: what is lost where it fails
LASTING = (FileNotFoundError, PermissionError, NotImplementedError, IsADirectoryError)  # trying again is of no use
REFUSED = re.compile(r"credential|token|forbidden|access ?denied|signature|unauthorized|\b40[13]\b", re.IGNORECASE)


class RemoteError(RunError):
    """A server that does not give what it should, however often it is asked."""


def is_address(name: str) -> bool:
    """Whether this is an address rather than a path."""
    return "://" in name or name.startswith("pipe:")


def check_address(address: str, flag: str) -> str:
    """The address without a slash at its end. Raises `InputError` for what is not accepted; shows no secret."""
    shown = without_secrets(address)
    accepted = f"accepted: the address of a folder by {', '.join(PACKAGES)}"
    if address.startswith("pipe:"):
        raise InputError(f"{flag} {shown!r}: would run a command; {accepted}")
    scheme, _, rest = address.partition("://")
    if scheme not in PACKAGES or "::" in address:
        raise InputError(f"{flag} {shown!r}: {accepted}")
    if "@" in rest.partition("/")[0] or {*"?#"} & {*rest}:
        raise InputError(f"{flag} {shown!r}: an address is written into checkpoints, and must hold no user, password "
                         "or key; accepted: credentials from the environment, such as AWS_ACCESS_KEY_ID and "
                         "AWS_SECRET_ACCESS_KEY")
    if not rest.strip("/") or ".." in rest.split("/") or not rest.isprintable():
        raise InputError(f"{flag} {shown!r}: names no folder; {accepted}")
    return address.rstrip("/")


class RemoteFolder:
    """A folder that an address names; names of its files are relative to it. Raises `RemoteError` after `PATIENCE`."""

    def __init__(self, address: str) -> None:
        self.address = address

    def read(self, name: str, limit: int) -> bytes | None:
        """The content of a small file; None where there is none."""
        try:
            content = self._trying(name, lambda system, path: system.cat_file(path))
        except FileNotFoundError:
            return None
        if len(content) > limit:
            raise RemoteError(f"{self.address}/{name}: is larger than {limit >> 20} MiB; accepted: at most that")
        return bytes(content)

    def download(self, name: str, target: Path, length: int, sha256: str) -> None:
        """Fetch a file part by part; it gets its name when it is whole and has this checksum."""
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with atomic_path(target) as temporary, open(temporary, "wb") as stream:
            stream.truncate(length)  # counts as taken from now on
            done = 0
            while done < length:
                part = self._part(name, done, min(done + CHUNK, length), length)
                digest.update(part)
                stream.write(part)
                done += len(part)
            if digest.hexdigest() != sha256:
                raise RemoteError(f"{self.address}/{name}: has other bytes than its list says; write the data set "
                                  "again, or wait until all of it is there")

    def _part(self, name: str, start: int, end: int, length: int) -> bytes:
        try:
            part = self._trying(name, lambda system, path: system.cat_file(path, start=start, end=end))
        except FileNotFoundError:
            raise RemoteError(f"{self.address}/{name}: is not there, though its list names it") from None
        if len(part) == length and not start:
            return bytes(part)  # a server that knows no ranges
        if len(part) != end - start:
            raise RemoteError(f"{self.address}/{name}: the server gives {len(part):,} bytes where {end - start:,} were "
                              "asked for")
        return bytes(part)

    def upload(self, source: Path, name: str) -> None:
        """Write a file. Raises `FileNotFoundError` where the folder cannot be written to."""
        self._trying(name, lambda system, path: system.put_file(str(source), path))

    def _trying(self, name: str, action: Callable[[Any, str], T]) -> T:
        """What an action gives, sooner or later."""
        deadline, wait, told = time.monotonic() + PATIENCE, FIRST_WAIT, False
        while True:
            try:
                return action(_system(self.address.partition("://")[0], os.getpid()), f"{self.address}/{name}")
            except (FileNotFoundError, InputError):
                raise
            except Exception as error:  # each package has classes of its own
                reason = without_secrets(f"{type(error).__name__}: {reason_of(error)}")
                if isinstance(error, LASTING) or REFUSED.search(reason):
                    raise RemoteError(f"{self.address}/{name}: {reason}") from None
            if time.monotonic() + wait > deadline:
                raise RemoteError(f"{self.address}/{name}: the server gave nothing for {PATIENCE:.0f} s ({reason})")
            if not told:
                logger.warning("%s/%s: %s; trying again for %.0f s", self.address, name, reason, PATIENCE)
                told = True
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


@lru_cache(maxsize=8)
def _system(scheme: str, process: int) -> Any:
    """fsspec's file system; of each process its own, as its threads do not survive a fork."""
    try:
        import fsspec

        options: dict[str, Any] = {"skip_instance_cache": True}
        if scheme == "s3":
            options["config_kwargs"] = {"connect_timeout": CONNECT, "read_timeout": READ,
                                        "retries": {"max_attempts": 1}}
        elif scheme in ("http", "https"):
            import aiohttp

            options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(sock_connect=CONNECT, sock_read=READ)}
        return fsspec.filesystem(scheme, use_listings_cache=False, **options)
    except ImportError as error:
        raise InputError(f"{scheme}://: needs {PACKAGES[scheme]}, which cannot be imported ({reason_of(error)}); pip "
                         "install 'yolov7-framework[remote]' brings it") from None

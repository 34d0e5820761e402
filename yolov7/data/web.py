"""Images of servers: http and https alone, also behind redirects, with a limit for the bytes and one for the time."""

from __future__ import annotations

import base64
import http.client
import io
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

import numpy as np

from yolov7.config import InputError
from yolov7.config.errors import reason_of
from yolov7.config.messages import bounded, visible, without_secrets
from yolov7.data.images import ImageError, decode_content
from yolov7.data.video import shown_address

MAX_BYTES = 2**26  # of an image that a server sends
TIMEOUT = 10.0  # seconds without an answer, in connecting and in each read
WHOLE_TIMEOUT = 60.0  # seconds for all of it, redirects too
MAX_REDIRECTS = 5
CHUNK = 2**16
ACCEPTED = "accepted: the address of an image, by http or https"
REDIRECTS = (HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FOUND, HTTPStatus.SEE_OTHER, HTTPStatus.TEMPORARY_REDIRECT,
             HTTPStatus.PERMANENT_REDIRECT)
STREAMS = ("multipart/", "video/", "audio/")  # kinds of an answer that may have no end
_QUOTED = "%/:=&?~#+!$,;'@()*[]"  # what stands in an address as it is


def read_web_image(address: str) -> np.ndarray:
    """The image at an address, uint8 ``[H, W, 3]`` RGB. Raises `InputError`, in which no password is shown.

    What was compressed for the way is refused rather than unpacked.
    """
    shown = shown_address(address)
    with _open(address, shown) as answer:
        kind = _kind(answer)
        if kind.startswith(STREAMS):
            raise InputError(f"{shown}: the server answers with {kind}, no image; accepted: an image (a video or "
                             "stream where those are taken)")
        if (coding := answer.headers.get("Content-Encoding", "identity").strip().lower()) != "identity":
            raise InputError(f"{shown}: the server sends it compressed ({_safe(coding)}), which was not asked for; "
                             "accepted: an image as it is")
        content = _read(answer, shown)
    try:
        return decode_content(content)
    except ImageError as error:
        raise InputError(f"{shown}: the server's answer ({kind or 'of no kind'}): {error}") from None


def is_image(address: str) -> bool:
    """Whether a server answers with an image, whatever the address ends with; False where it does not answer."""
    try:
        with _open(address, shown_address(address)) as answer:
            return _kind(answer).startswith("image/")
    except InputError:
        return False


def _kind(answer: http.client.HTTPResponse) -> str:
    return _safe(answer.headers.get("Content-Type", "").partition(";")[0].strip().lower())


def _safe(text: str) -> str:
    return visible(bounded(text, 60))


# --- asking ----------------------------------------------------------------------------------------------------


@contextmanager
def _open(address: str, shown: str) -> Iterator[http.client.HTTPResponse]:
    """The answer of the server that has it, after redirects. Whatever fails in the block, too, is an `InputError`."""
    try:
        with _follow(address, shown, time.monotonic() + WHOLE_TIMEOUT) as answer:
            yield answer
    except InputError:
        raise
    except TimeoutError:
        raise InputError(f"{shown}: the server is too slow; accepted: an answer within {TIMEOUT:g} s, and all of it "
                         f"within {WHOLE_TIMEOUT:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            raise InputError(f"{shown}: the server does not answer within {TIMEOUT:g} s") from None
        reason = reason_of(cause) if isinstance(cause, Exception) else str(cause)
        raise InputError(f"{shown}: cannot be fetched: {without_secrets(reason)}") from None


def _follow(address: str, shown: str, deadline: float) -> http.client.HTTPResponse:
    opener = urllib.request.OpenerDirector()  # of nothing but http and https: no file, no ftp, no data
    for handler in (urllib.request.ProxyHandler(), _Handler(deadline)):
        opener.add_handler(handler)
    first, user = _split(address, shown)
    headers = {"User-Agent": "yolov7-framework", "Accept": "image/*, */*;q=0.1"}
    url = first
    for _ in range(1 + MAX_REDIRECTS):
        request = urllib.request.Request(url, headers=headers)
        if user and _origin(url) == _origin(first):  # nobody else learns the password
            request.add_unredirected_header("Authorization", f"Basic {user}")
        answer: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT)
        if answer.status == HTTPStatus.OK:
            return answer
        answer.close()  # its content may have no end
        target = answer.headers.get("Location") if answer.status in REDIRECTS else None
        if target is None:
            raise InputError(f"{shown}: the server answers {_status(answer.status)}; {ACCEPTED}")
        url, _ = _split(urllib.parse.urljoin(url, target), f"{shown}, redirected to {_shown_target(target)}")
    raise InputError(f"{shown}: is redirected more than {MAX_REDIRECTS} times")


def _shown_target(target: str) -> str:
    return _safe(without_secrets(target))


def _status(code: int) -> str:
    return f"{code} ({HTTPStatus(code).phrase})" if code in set(HTTPStatus) else str(code)


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


def _split(address: str, where: str) -> tuple[str, str]:
    """An address as servers take it, without user and password; and these, encoded. Raises `InputError`."""
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # whose text may hold a part of a password
        raise InputError(f"{where}: is no address of a server; {ACCEPTED}") from None
    if parts.scheme not in ("http", "https") or not host:
        found = "no host" if parts.scheme in ("http", "https") else f"the scheme {_safe(parts.scheme)!r}"
        raise InputError(f"{where}: found {found}; {ACCEPTED}")
    try:
        name = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except UnicodeError:
        raise InputError(f"{where}: is no address of a server; {ACCEPTED}") from None
    path, query = (urllib.parse.quote(part, safe=_QUOTED) for part in (parts.path or "/", parts.query))
    user = ""
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        user = base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode()
    netloc = name if port is None else f"{name}:{port}"
    return urllib.parse.urlunsplit((parts.scheme, netloc, path, query, "")), user


# --- reading ---------------------------------------------------------------------------------------------------


def _read(answer: http.client.HTTPResponse, shown: str) -> bytes:
    announced, content = answer.length, bytearray()
    most = MAX_BYTES + 1 if announced is None else announced
    # what has come: a read of more would wait beyond the time
    while most <= MAX_BYTES + 1 and len(content) < most and (part := answer.read1(min(CHUNK, most - len(content)))):
        content += part
    if max(len(content), announced or 0) > MAX_BYTES:
        raise InputError(f"{shown}: is larger than {MAX_BYTES >> 20} MiB; accepted: at most that")
    if announced is not None and len(content) < announced:
        raise InputError(f"{shown}: ends after {len(content):,} of {announced:,} bytes")
    return bytes(content)


class _Handler(urllib.request.AbstractHTTPHandler):
    """http and https, each read of which ends with the time for the whole."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """See `urllib.request.HTTPHandler`."""
        return self.do_open(partial(self._connect, http.client.HTTPConnection), request)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """See `urllib.request.HTTPSHandler`."""
        return self.do_open(partial(self._connect, http.client.HTTPSConnection), request)  # type: ignore[arg-type]

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def _connect(self, kind: type[http.client.HTTPConnection], host: str,
                 **settings: Any) -> http.client.HTTPConnection:
        connection = kind(host, **settings)
        connection.response_class = partial(_Answer, self._deadline)  # type: ignore[assignment]
        return connection


class _Answer(http.client.HTTPResponse):
    """An answer whose headers and content come before a deadline, or not at all."""

    def __init__(self, deadline: float, sock: Any, **settings: Any) -> None:
        super().__init__(sock, **settings)
        self.fp.close()
        self.fp = io.BufferedReader(_Timed(sock, deadline))  # type: ignore[assignment]


class _Timed(io.RawIOBase):
    """A socket's bytes until a deadline: a server that sends one at a time never lets a time limit for each pass."""

    def __init__(self, sock: Any, deadline: float) -> None:
        super().__init__()
        self._sock, self._raw, self._deadline = sock, sock.makefile("rb", buffering=0), deadline

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """See `io.RawIOBase`."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(min(TIMEOUT, left))
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        """Let the socket go, too."""
        if not self.closed:
            self._raw.close()
        super().close()

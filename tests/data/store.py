"""An object store that can be cut off.

Moto's server, whose buckets are kept in memory: a proxy before it is what goes away.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Proxy:
    """Hands bytes to a server and back, until it is cut off; every connection breaks then."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self.bytes = 0  # that the server has sent
        self.cut_after: int | None = None  # bytes, once
        self.cuts = 0
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.restore()

    def restore(self) -> None:
        """Be there."""
        if self._listener is not None:
            return
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Be gone."""
        listener, self._listener = self._listener, None
        for one in ([listener] if listener else []) + self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def cut_for(self, seconds: float) -> None:
        """Be gone for some time."""
        self.cuts += 1
        self.cut()
        threading.Timer(seconds, self.restore).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self._open += [client, server]
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                for one in select.select([client, server], [], [])[0]:
                    data = one.recv(1 << 14)
                    if not data:
                        raise OSError
                    if one is server:
                        self._count(len(data))
                    (server if one is client else client).sendall(data)
        for one in (client, server):
            one.close()

    def _count(self, length: int) -> None:
        self.bytes += length
        if self.cut_after is not None and self.bytes > self.cut_after:
            self.cut_after = None
            self.cut_for(1.0)
            raise OSError


@contextlib.contextmanager
def store() -> Iterator[Proxy]:
    """A server behind a proxy, with the bucket ``sets``; the environment says where it is."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    port = free_port()
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    import boto3

    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret-of-a-test", "NO_PROXY": "127.0.0.1",
             "AWS_DEFAULT_REGION": "us-east-1", "no_proxy": "127.0.0.1"}
    proxy = Proxy(port)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**names, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket="sets")
        yield proxy
    proxy.cut()
    server.stop()
    assert "AWS_ENDPOINT_URL" not in os.environ or os.environ["AWS_ENDPOINT_URL"]

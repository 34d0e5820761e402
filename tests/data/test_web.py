"""Images of servers, from a real one: redirects, sizes, times, and what hostile servers send."""

from __future__ import annotations

import base64
import gzip
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from yolov7.config import InputError
from yolov7.data import streams, web
from yolov7.data.any_image import to_array
from yolov7.data.images import cv2, decode_image
from yolov7.data.sources import Files, Streams, open_source
from yolov7.data.web import is_image, read_web_image

IMAGE = np.kron(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
JPEG = cv2.imencode(".jpg", IMAGE)[1].tobytes()
PIXELS = decode_image(JPEG, "it")
Answer = Callable[["_Handler"], None]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        server.asked.append((self.path, dict(self.headers)))
        try:
            server.answers.get(self.path.partition("?")[0], missing)(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, Answer] = {"/bus.jpg": image}
        self.ended = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str, user: str = "", host: str = "127.0.0.1") -> str:
        return f"http://{user}{host}:{self.server_port}{path}"


def send(handler: _Handler, content: bytes = JPEG, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content-Type": "image/jpeg", "Content-Length": str(len(content))} | {
            name.replace("_", "-"): value for name, value in headers.items()}).items():
        if value:
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


def image(handler: _Handler) -> None:
    send(handler)


def missing(handler: _Handler) -> None:
    send(handler, b"<html>", 404, Content_Type="text/html")


def redirect(target: str, status: int = 302) -> Answer:
    return lambda handler: send(handler, b"", status, Location=target)


def slowly(handler: _Handler) -> None:
    """A byte from time to time: no single wait is long."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.ended.wait(0.05):  # type: ignore[attr-defined]
        handler.wfile.write(b"x")


def endless(handler: _Handler, status: int = 200, header: tuple[str, str] = ("Content-Type", "image/jpeg")) -> None:
    handler.send_response(status)
    handler.send_header(*header)
    handler.end_headers()
    while not handler.server.ended.is_set():  # type: ignore[attr-defined]
        handler.wfile.write(bytes(2**16))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setenv("no_proxy", "*")
    with _Server() as server:
        yield server
        server.ended.set()
        server.shutdown()


# --- what works ------------------------------------------------------------------------------------------------


def test_an_image_by_its_address(server: _Server) -> None:
    assert np.array_equal(read_web_image(server.url("/bus.jpg?size=2#top")), PIXELS)
    found, path = to_array(server.url("/bus.jpg?token=geheim"))
    assert np.array_equal(found, PIXELS) and path == server.url("/bus.jpg?token=***")
    asked, headers = server.asked[0]
    assert asked == "/bus.jpg?size=2" and headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"] == "yolov7-framework"


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "text/plain"])
def test_the_content_decides_what_an_image_is(kind: str, server: _Server) -> None:
    server.answers["/x"] = lambda handler: send(handler, Content_Type=kind)
    assert np.array_equal(read_web_image(server.url("/x")), PIXELS)


def test_an_answer_in_chunks(server: _Server) -> None:
    def chunks(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(JPEG), 100):
            part = JPEG[start : start + 100]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    server.answers["/x"] = chunks
    assert np.array_equal(read_web_image(server.url("/x")), PIXELS)


def test_a_server_that_keeps_the_line_open_is_not_waited_for(server: _Server) -> None:
    def keeps(handler: _Handler) -> None:
        send(handler)
        handler.wfile.flush()
        handler.server.ended.wait(20)  # type: ignore[attr-defined]

    server.answers["/x"] = keeps
    started = time.monotonic()
    assert np.array_equal(read_web_image(server.url("/x")), PIXELS)
    assert time.monotonic() - started < 5


def test_addresses_with_other_letters(server: _Server) -> None:
    server.answers["/%C3%BC%20%E5%86%99.jpg"] = image
    assert np.array_equal(read_web_image(server.url("/ü 写.jpg")), PIXELS)
    assert np.array_equal(read_web_image(server.url("/%C3%BC%20%E5%86%99.jpg")), PIXELS)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int, server: _Server) -> None:
    server.answers["/a"] = redirect("deep/../b", status)
    server.answers["/b"] = redirect(server.url("/bus.jpg"), status)
    assert np.array_equal(read_web_image(server.url("/a")), PIXELS)


def test_a_password_goes_to_its_own_server_alone(server: _Server) -> None:
    with _Server() as other:
        server.answers |= {"/a": redirect("/b"), "/b": redirect(other.url("/bus.jpg"))}
        assert np.array_equal(read_web_image(server.url("/a", "me:p%40ss@")), PIXELS)
        own = "Basic " + base64.b64encode(b"me:p@ss").decode()
        assert [headers.get("Authorization") for _, headers in server.asked] == [own, own]
        assert [headers.get("Authorization") for _, headers in other.asked] == [None]
        assert all("me" not in headers["Host"] for _, headers in server.asked + other.asked)
        other.shutdown()


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "message"), [
    ("file:///etc/passwd", "redirected to file:///etc/passwd: found the scheme 'file'; accepted: the address of an"),
    ("ftp://127.0.0.1/x.jpg", "found the scheme 'ftp'"), ("data:image/png;base64,AAAA", "found the scheme 'data'"),
    ("http://a:b:c/", "is no address of a server")])
def test_a_redirect_to_elsewhere_is_refused(target: str, message: str, server: _Server) -> None:
    server.answers["/a.jpg"] = redirect(target)
    with pytest.raises(InputError, match=message):
        read_web_image(server.url("/a.jpg"))


def test_redirects_have_an_end(server: _Server) -> None:
    server.answers["/a.jpg"] = redirect("/a.jpg")
    with pytest.raises(InputError, match="is redirected more than 5 times"):
        read_web_image(server.url("/a.jpg"))
    assert len(server.asked) == 6


def test_a_body_of_a_redirect_is_not_read(server: _Server) -> None:
    server.answers["/a.jpg"] = lambda handler: endless(handler, 302, ("Location", "/bus.jpg"))
    assert np.array_equal(read_web_image(server.url("/a.jpg")), PIXELS)


def test_a_body_without_end(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_BYTES", 2**20)
    server.answers["/a.jpg"] = endless
    with pytest.raises(InputError, match="is larger than 1 MiB; accepted: at most that"):
        read_web_image(server.url("/a.jpg"))
    server.answers["/b.jpg"] = lambda handler: send(handler, b"", Content_Length=str(10**12))
    with pytest.raises(InputError, match="is larger than 1 MiB"):  # before a byte is read
        read_web_image(server.url("/b.jpg"))


@pytest.mark.parametrize("where", ["body", "headers", "redirects"])
def test_all_of_it_has_a_time_limit(where: str, server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "WHOLE_TIMEOUT", 0.5)

    def headers(handler: _Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not handler.server.ended.wait(0.05):  # type: ignore[attr-defined]
            handler.wfile.write(b"x")

    def late(handler: _Handler) -> None:
        time.sleep(0.2)
        redirect("/a.jpg")(handler)

    server.answers["/a.jpg"] = {"body": slowly, "headers": headers, "redirects": late}[where]
    started = time.monotonic()
    with pytest.raises(InputError, match="the server is too slow; accepted: an answer within 10 s, and all of it"):
        read_web_image(server.url("/a.jpg"))
    assert time.monotonic() - started < 3


def test_a_server_that_says_nothing(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.3)
    server.answers["/a.jpg"] = lambda handler: None if handler.server.ended.wait(5) else None  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"the server is too slow|does not answer"):
        read_web_image(server.url("/a.jpg"))


def test_a_server_without_a_certificate(server: _Server) -> None:
    with pytest.raises(InputError, match="cannot be fetched"):
        read_web_image(server.url("/bus.jpg").replace("http:", "https:"))


def test_a_gzip_bomb_is_not_unpacked(server: _Server) -> None:
    bomb = gzip.compress(bytes(2**24))
    server.answers["/a.jpg"] = lambda handler: send(handler, bomb, Content_Encoding="gzip")
    with pytest.raises(InputError, match=r"the server sends it compressed \(gzip\), which was not asked for"):
        read_web_image(server.url("/a.jpg"))
    server.answers["/b.jpg"] = lambda handler: send(handler, bomb)
    with pytest.raises(InputError, match=r"the server's answer \(image/jpeg\): not an image that can be read"):
        read_web_image(server.url("/b.jpg"))


@pytest.mark.parametrize("header", [b"X: " + b"x" * 10**6 + b"\r\n\r\n", b"X: y\r\n" * 10_000 + b"\r\n"],
                         ids=["long", "many"])
def test_headers_without_measure(header: bytes, server: _Server) -> None:
    server.answers["/a.jpg"] = lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + header) and None
    with pytest.raises(InputError, match="cannot be fetched"):
        read_web_image(server.url("/a.jpg"))


@pytest.mark.parametrize(("answer", "message"), [
    (missing, r"the server answers 404 \(Not Found\); accepted: the address of an image"),
    (lambda handler: send(handler, b"x", 799), "the server answers 799; accepted"),
    (lambda handler: send(handler, b"", 302), r"the server answers 302 \(Found\)"),
    (lambda handler: send(handler, b"<html>", Content_Type="text/html; charset=x"),
     r"the server's answer \(text/html\): not an image that can be read"),
    (lambda handler: send(handler, b"", Content_Type=""), r"the server's answer \(of no kind\): the file is empty"),
    (lambda handler: send(handler, JPEG[:-50]), r"truncated JPEG|cannot be decoded"),
    (lambda handler: send(handler, JPEG, Content_Length=str(len(JPEG) + 5), Connection="close") or setattr(
        handler, "close_connection", True), r"ends after [\d,]+ of [\d,]+ bytes"),
    (lambda handler: send(handler, b"--x", Content_Type="multipart/x-mixed-replace; boundary=x"),
     "answers with multipart/x-mixed-replace, no image; accepted: an image"),
    (lambda handler: send(handler, b"x", Content_Type="video/mp4"), "answers with video/mp4, no image"),
    (lambda handler: handler.wfile.write(b"220 ftp\r\n") and None, "cannot be fetched"),
    (lambda handler: setattr(handler, "close_connection", True), "cannot be fetched")])
def test_what_is_no_image_is_explained(answer: Answer, message: str, server: _Server) -> None:
    server.answers["/a.jpg"] = answer
    with pytest.raises(InputError, match=message) as caught:
        read_web_image(server.url("/a.jpg?token=geheim", "me:secret@"))
    assert "geheim" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("address", [
    "http://me:se/cret@127.0.0.1:1/a.jpg", "http://me:secret@127.0.0.1:1/a.jpg", "https://me:secret@[/a.jpg",
    "http://me:secret@host:port/a.jpg", "http://me:secret@\u2100.test/a.jpg", "http://me:secret@" + "a" * 300 + "/x",
    "ftp://me:secret@host/a.jpg", "file://me:secret@host/etc/passwd", "http://", "http://me:secret@127.0.0.1:1/\ud800",
    "rtsp://me:secret@host/a.jpg", "http://me:secret@127.0.0.1:99999/a.jpg"])
def test_addresses_of_nothing_hide_their_secrets(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(InputError) as caught:
        to_array(address)
    assert "secret" not in str(caught.value) and "cret" not in str(caught.value)


# --- as a source -----------------------------------------------------------------------------------------------


def test_a_source_may_be_the_address_of_an_image(server: _Server, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "bus.png"), IMAGE)
    (frame,) = open_source(server.url("/bus.jpg?token=geheim"))
    assert np.array_equal(frame.image, PIXELS)
    assert (frame.path, frame.name, frame.index, frame.video) == (server.url("/bus.jpg?token=***"), "bus", 0, None)
    lines = [str(tmp_path / "bus.png"), server.url("/bus.jpg"), server.url("/nowhere.jpg"), server.url("/bus.jpg")]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    files = open_source(str(tmp_path / "list.txt"))
    assert isinstance(files, Files) and [frame.name for frame in files] == ["bus", "bus_2"]
    assert len(files.faults) == 1 and "nowhere.jpg: the server answers 404" in files.faults[0]
    with pytest.raises(InputError, match="404"):
        list(open_source(server.url("/nowhere.jpg")))


def test_a_server_may_say_that_it_is_an_image(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FIRST_WAIT", 0.05)
    server.answers["/photo"] = image
    assert is_image(server.url("/photo")) and not is_image(server.url("/nothing"))
    files = open_source(server.url("/photo?id=7"))
    assert isinstance(files, Files)
    (frame,) = files
    assert np.array_equal(frame.image, PIXELS) and frame.name == "photo" and frame.video is None
    with pytest.raises(InputError, match="no frame comes from this stream"):
        open_source(server.url("/nothing"))


def test_a_camera_is_asked_nothing_more(server: _Server, caplog: pytest.LogCaptureFixture) -> None:
    def camera(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        while not handler.server.ended.wait(0.03):  # type: ignore[attr-defined]
            handler.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + JPEG + b"\r\n")

    server.answers["/camera"] = camera
    with caplog.at_level(logging.WARNING, "yolov7"):
        source = open_source(server.url("/camera"))
        assert isinstance(source, Streams)
        batches = source.batches(1)
        assert next(batches)[0].image.shape == PIXELS.shape
        asked = [path for path, headers in server.asked if headers.get("User-Agent") == "yolov7-framework"]
        source.close()
    assert asked == []


@pytest.mark.parametrize(("address", "name"), [
    ("https://h/a%20b.jpg", "a%20b"), ("https://h/x/" + "y" * 300 + ".jpg", "y" * 100),
    ("https://h/a:b*c.png?x=1", "a_b_c")])
def test_names_of_files_are_those_of_addresses(address: str, name: str) -> None:
    files = open_source(address)
    assert isinstance(files, Files) and files._names == {address: name}

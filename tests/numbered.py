"""Pictures that bear a number as blocks on their upper edge, which survive a video codec; a server that sends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from yolov7.data.images import cv2, load_image

BITS = 12
STRIP = 0.15  # of the height


def numbered(picture: np.ndarray, number: int) -> np.ndarray:
    """A copy of a picture uint8 ``[H, W, 3]`` with a number below 4096, its lowest bit on the left."""
    image = picture.copy()
    height, width = image.shape[:2]
    for bit in range(BITS):
        bright = number >> bit & 1
        image[: round(STRIP * height), bit * width // BITS : (bit + 1) * width // BITS] = 235 if bright else 20
    return image


def number_of(image: np.ndarray) -> int:
    """The number of a picture; only the middle of its blocks is looked at."""
    height, width = image.shape[:2]
    row = image[: round(0.6 * STRIP * height)].mean(axis=(0, 2))  # [W]
    middles = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(int(row[max(x - 2, 0) : x + 3].mean() > 127) << bit for bit, x in enumerate(middles))


def real_pictures(folder: Path, count: int, height: int = 120, width: int = 160) -> list[np.ndarray]:
    """The first pictures of a folder in one size."""
    return [cv2.resize(load_image(path), (width, height)) for path in sorted(folder.iterdir())[:count]]


def plain_pictures(count: int, height: int = 120, width: int = 160) -> list[np.ndarray]:
    """Gradients, where no real pictures are needed."""
    ramp = np.linspace(40, 200, width, dtype=np.uint8)[None, :, None]
    return [np.broadcast_to(np.roll(ramp, 10 * i, axis=1), (height, width, 3)).copy() for i in range(count)]


class Camera:
    """A server on loopback that sends JPEG after JPEG; the number on each counts the frames since its start."""

    def __init__(self, pictures: list[np.ndarray], fps: float = 40.0, port: int = 0) -> None:
        self.fps = fps
        self.started = time.monotonic()
        self.connections = 0
        self.silent = False  # connected, but nothing is sent
        self._generation = 0  # a connection ends when it is no longer its own
        self._pictures = pictures
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/camera"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        """Of the frame that is being sent now."""
        return int((time.monotonic() - self.started) * self.fps)

    def cut(self) -> None:
        """End the connections that there are."""
        self._generation += 1

    def stop(self) -> None:
        """End everything: nobody answers any more."""
        self.cut()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _parts(self) -> Iterator[bytes]:
        generation, number = self._generation, -1
        while generation == self._generation:
            if self.number == number or self.silent:
                time.sleep(0.2 / self.fps)
                continue
            number = self.number
            picture = numbered(self._pictures[number % len(self._pictures)], number % 2**BITS)
            data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            yield head.encode() + data + b"\r\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802
                camera.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for part in camera._parts():
                        self.wfile.write(part)
                except OSError:  # the reader has gone
                    return

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

"""An RTSP server of GStreamer: pictures of one size that bear their number since ``start`` (see `numbered`).

Run by the system's Python, which has GStreamer: ``rtsp_server.py PORT FILE WIDTH HEIGHT FPS START``; the file holds one
raw RGB picture. Sends H.264 at ``rtsp://127.0.0.1:PORT/camera``.
"""

import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PORT, FILE = sys.argv[1:3]
WIDTH, HEIGHT, FPS = map(int, sys.argv[3:6])
START = float(sys.argv[6])
BITS, STRIP = 12, 0.15
LAUNCH = (f"( appsrc name=source is-live=true format=time caps=video/x-raw,format=RGB,width={WIDTH},height={HEIGHT},"
          f"framerate={FPS}/1 ! videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency key-int-max={FPS} ! "
          "rtph264pay name=pay0 pt=96 )")


def numbered(picture: bytes, number: int) -> bytes:
    """The picture with the number on its upper edge."""
    edges = [bit * WIDTH // BITS for bit in range(BITS + 1)]
    row = b"".join((b"\xeb" if number >> bit & 1 else b"\x14") * (3 * (edges[bit + 1] - edges[bit]))
                   for bit in range(BITS))
    rows = round(STRIP * HEIGHT)
    return row * rows + picture[3 * WIDTH * rows :]


def configure(_factory: object, media: GstRtspServer.RTSPMedia) -> None:
    """Push a frame for every tick of the clock."""
    source = media.get_element().get_child_by_name("source")
    first = [int((time.time() - START) * FPS)]

    def push() -> bool:
        number = int((time.time() - START) * FPS)
        buffer = Gst.Buffer.new_wrapped(numbered(picture, number % 2**BITS))
        buffer.pts = (number - first[0]) * Gst.SECOND // FPS
        buffer.duration = Gst.SECOND // FPS
        return source.emit("push-buffer", buffer) == Gst.FlowReturn.OK

    GLib.timeout_add(1000 // FPS, push)


Gst.init(None)
with open(FILE, "rb") as stream:
    picture = stream.read()
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(PORT)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(LAUNCH)
factory.set_shared(True)
factory.connect("media-configure", configure)
server.get_mount_points().add_factory("/camera", factory)
if not server.attach(None):
    sys.exit(f"port {PORT} is taken")
sys.stdout.write("ready\n")
sys.stdout.flush()
GLib.MainLoop().run()

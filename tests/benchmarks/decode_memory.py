"""Memory for decoding the largest accepted photo of each format: in a process of its own, and in a server.

    python -m tests.benchmarks.decode_memory
    python -m tests.benchmarks.decode_memory HEIC AVIF

Arguments choose the formats whose names begin with them. For each format the largest square photo whose header is
accepted is searched, then written and decoded. Peak: the additional resident memory while the photo was decoded. Left:
the resident memory of the whole process afterwards. Both are Linux' own counts. Then a server with one worker gets the
largest photo that it accepts of each format, four at a time, twice; the growth of the worker some seconds later is
printed.
"""

import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
from PIL import Image

from components.scorer.imaging import decoding
from components.scorer.settings import Ingestion
from images.serving.settings import ServerSettings
from tests.benchmarks.serving_load import published_models
from tests.builders.servers import started

PEAK, LEFT = 400, 150
"""Largest accepted values, MiB: additional memory while decoding; memory held afterwards.

The latter is that of the whole process if the process only decodes, and the growth if it serves.
"""

_SMALL = 2048  # side of the photo whose header predicts the largest side


def _writer(format: str, mode: str = "RGB", **options: object) -> Callable[[int], bytes]:
    def write(side: int) -> bytes:
        colour = tuple(40 * (band + 1) for band in range(len(Image.new(mode, (1, 1)).getbands())))
        image = Image.new(mode, (side, side), colour if len(colour) > 1 else colour[0])
        stream = io.BytesIO()
        image.save(stream, format, **options)
        return stream.getvalue()

    return write


_SERVER = ServerSettings()
_CALM = 5.0  # seconds between the server's last answer and the measurement of its worker
_LONGEST = 300.0  # most seconds for an answer

_FAST = {"enc_params": {"preset": "ultrafast", "x265:pools": "none"}}
_STRIP = {"compression": "tiff_adobe_deflate", "strip_size": 2**30}
FORMATS = {
    "JPEG": _writer("JPEG"),
    "JPEG, progressive, 4:2:0": _writer("JPEG", progressive=True),
    "JPEG, progressive, 4:4:4": _writer("JPEG", progressive=True, subsampling=0),
    "JPEG, progressive, CMYK": _writer("JPEG", "CMYK", progressive=True),
    "PNG": _writer("PNG", compress_level=1),
    "PNG with alpha": _writer("PNG", "RGBA", compress_level=1),
    "PNG, 16-bit grey": _writer("PNG", "I;16", compress_level=1),
    "GIF": _writer("GIF", "P"),
    "BMP": _writer("BMP"),
    "TIFF": _writer("TIFF"),
    "TIFF, deflated in one strip": _writer("TIFF", **_STRIP),
    "TIFF with alpha, deflated in one strip": _writer("TIFF", "RGBA", **_STRIP),
    "WebP": _writer("WEBP", method=0),
    "WebP, lossless, with alpha": _writer("WEBP", "RGBA", lossless=True, method=0),
    "HEIC": _writer("HEIF", quality=10, **_FAST),
    "HEIC, 4:4:4, with alpha": _writer("HEIF", "RGBA", quality=10, chroma=444, **_FAST),
    "AVIF": _writer("AVIF", quality=10, speed=10),
    "AVIF, 4:4:4, with alpha": _writer("AVIF", "RGBA", quality=10, speed=10, subsampling="4:4:4"),
}
"""Functions that write a photo of each format; of one colour, as decoding takes the same memory for any."""

_CHILD = r"""
import io, re, sys
from pathlib import Path
from PIL import Image
from components.scorer.imaging import decoding
from components.scorer.settings import Ingestion

def status(name):
    return int(re.search(name + r":\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

small = io.BytesIO()
Image.new("RGB", (400, 400)).save(small, "JPEG")
decoding.decode(small.getvalue(), Ingestion())  # what is loaded once
data = Path(sys.argv[1]).read_bytes()
Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
before = status("VmRSS")
photo = decoding.decode(data, Ingestion())
decoding.encode(photo.image, Ingestion())
peak = status("VmHWM") - before
del photo, data
print(peak, status("VmRSS"))
"""


def main() -> int:
    """Print a row for each format, and the growth of a server's worker.

    Returns:
        1 if one format takes more than `PEAK` or leaves more than `LEFT`, else 0.
    """
    names = [name for name in FORMATS if name.startswith(tuple(sys.argv[1:] or [""]))]
    worst, server_photos = [0.0, 0.0], []
    print("| format | largest accepted, megapixels | peak, MiB | left, MiB |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            side, data = _largest(FORMATS[name], Ingestion().maximum_pixels)
            path = Path(folder, "photo")
            path.write_bytes(data)
            process = subprocess.run([sys.executable, "-c", _CHILD, path], capture_output=True, text=True, check=True)
            peak, left = map(float, re.findall(r"\S+", process.stdout))
            worst = [max(worst[0], peak), max(worst[1], left)]
            print(f"| {name} | {side * side / 1e6:.0f} | {peak:.0f} | {left:.0f} |", flush=True)
            if side**2 > _SERVER.pixels:
                data = _largest(FORMATS[name], _SERVER.pixels)[1]
            if len(data) < 0.9 * _SERVER.body:
                server_photos.append(data)
        print(f"| worst | | {worst[0]:.0f} (at most {PEAK}) | {worst[1]:.0f} (at most {LEFT}) |", flush=True)
        before, after = _of_a_worker(server_photos, Path(folder))
    growth = after - before
    print(f"a server's worker: {before:.0f} MiB before {2 * len(server_photos)} of these photos, {_CALM:g} s after them"
          f" {growth:.0f} more (at most {LEFT})")  # fmt: skip
    return int(worst[0] > PEAK or max(worst[1], growth) > LEFT)


def _largest(write: Callable[[int], bytes], most: int) -> tuple[int, bytes]:
    """Return the largest accepted side, to a few percent, of at most so many pixels; and the photo."""
    settings = replace(Ingestion(), minimum_side=1)
    pixels, needed = decoding.decoding_cost(write(_SMALL), settings)
    side = int(min(most, pixels * decoding.MAX_DECODING_BYTES / needed) ** 0.5) // 8 * 8
    while decoding.decoding_cost(data := write(side), settings)[1] > decoding.MAX_DECODING_BYTES:
        side = int(0.98 * side) // 8 * 8
    return side, data


def _of_a_worker(photos: list[bytes], folder: Path) -> tuple[float, float]:
    """Return the MiB of a server's worker before it gets photos, and some seconds afterwards."""
    models, _ = published_models(folder, "")
    options = ("--workers", "1", "--seconds", f"{_LONGEST:g}")
    with started(models, folder, *options) as server, httpx.Client(base_url=server.url, timeout=_LONGEST) as client:

        def ask(photo: bytes) -> None:
            (answer,) = client.post("/score", files={"photos": photo}).raise_for_status().json()["photos"]
            if "mean" not in answer:
                raise ValueError(f"expected a score, got {answer}")

        (worker,) = server.workers()
        for write in FORMATS.values():  # modules that are loaded only once
            ask(write(400))
        before = _resident(worker)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, 2 * photos))
        time.sleep(_CALM)
        return before, _resident(worker)


def _resident(process: int) -> float:
    """Return the resident MiB of a process."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())

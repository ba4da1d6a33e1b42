"""What decoding the largest photo that is accepted of each format takes: in a process of its own, and in a server.

    python -m tests.benchmarks.decode_memory
    python -m tests.benchmarks.decode_memory HEIC AVIF

Names of formats, or what they begin with, choose some of them. For each format the side of a square photo is searched
up to which the header is accepted, then a photo of that side is written and decoded. Peak: the largest resident memory
while it was decoded; left: the resident memory afterwards, of the process as a whole; both by Linux' own count. Then a
server with one worker is sent the largest photo of each format that it takes, four at a time, twice; told is by how
much its worker has grown some seconds afterwards.
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
"""MiB that the largest may take beyond the process as it was, and that the process may hold afterwards: as a whole
where it does nothing else, and beyond what it was where it serves."""

_SMALL = 2048  # side of the photo by whose header the largest side is guessed


def _writer(format: str, mode: str = "RGB", **options: object) -> Callable[[int], bytes]:
    def write(side: int) -> bytes:
        colour = tuple(40 * (band + 1) for band in range(len(Image.new(mode, (1, 1)).getbands())))
        image = Image.new(mode, (side, side), colour if len(colour) > 1 else colour[0])
        stream = io.BytesIO()
        image.save(stream, format, **options)
        return stream.getvalue()

    return write


_SERVER = ServerSettings()
_CALM = 5.0  # seconds between the server's last answer and the look at its worker
_LONGEST = 300.0  # seconds for an answer

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
"""How the photo of each format is written; one colour, for what is decoded takes the same for any."""

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
    """Print a row for each format, and what a server's worker has kept.

    Returns:
        1 where one takes more than `PEAK` or leaves more than `LEFT`, else 0.
    """
    chosen = [name for name in FORMATS if name.startswith(tuple(sys.argv[1:] or [""]))]
    worst, served = [0.0, 0.0], []
    print("| format | largest accepted, megapixels | peak, MiB | left, MiB |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            side, data = _largest(FORMATS[name], Ingestion().maximum_pixels)
            path = Path(folder, "photo")
            path.write_bytes(data)
            done = subprocess.run([sys.executable, "-c", _CHILD, path], capture_output=True, text=True, check=True)
            peak, left = map(float, re.findall(r"\S+", done.stdout))
            worst = [max(worst[0], peak), max(worst[1], left)]
            print(f"| {name} | {side * side / 1e6:.0f} | {peak:.0f} | {left:.0f} |", flush=True)
            if side**2 > _SERVER.pixels:
                data = _largest(FORMATS[name], _SERVER.pixels)[1]
            if len(data) < 0.9 * _SERVER.body:
                served.append(data)
        print(f"| worst | | {worst[0]:.0f} (at most {PEAK}) | {worst[1]:.0f} (at most {LEFT}) |", flush=True)
        before, after = _of_a_worker(served, Path(folder))
    kept = after - before
    print(f"a server's worker: {before:.0f} MiB before {2 * len(served)} of these photos, {_CALM:g} s after them"
          f" {kept:.0f} more (at most {LEFT})")  # fmt: skip
    return int(worst[0] > PEAK or max(worst[1], kept) > LEFT)


def _largest(write: Callable[[int], bytes], most: int) -> tuple[int, bytes]:
    """The largest side that is accepted, to some hundredths, of at most so many pixels; and the photo."""
    settings = replace(Ingestion(), minimum_side=1)
    pixels, needed = decoding.decoding_cost(write(_SMALL), settings)
    side = int(min(most, pixels * decoding.MAX_DECODING_BYTES / needed) ** 0.5) // 8 * 8
    while decoding.decoding_cost(data := write(side), settings)[1] > decoding.MAX_DECODING_BYTES:
        side = int(0.98 * side) // 8 * 8
    return side, data


def _of_a_worker(photos: list[bytes], folder: Path) -> tuple[float, float]:
    """Return the MiB of a server's worker before it was sent photos, and some seconds afterwards."""
    models, _ = published_models(folder, "")
    options = ("--workers", "1", "--seconds", f"{_LONGEST:g}")
    with started(models, folder, *options) as server, httpx.Client(base_url=server.url, timeout=_LONGEST) as client:

        def ask(photo: bytes) -> None:
            (answer,) = client.post("/score", files={"photos": photo}).raise_for_status().json()["photos"]
            if "mean" not in answer:
                raise ValueError(f"expected a score, got {answer}")

        (worker,) = server.workers()
        for write in FORMATS.values():  # what is loaded once
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

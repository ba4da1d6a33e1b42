"""What decoding the largest photo that is accepted of each format takes, each in a process of its own.

    python -m tests.benchmarks.decode_memory

For each format the side of a square photo is searched up to which the header is accepted, then a photo of that side is
written and decoded. Peak: the largest resident memory while it was decoded; left: the resident memory afterwards, of
the process as a whole; both by Linux' own count.
"""

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from components.scorer import decoding
from components.scorer.settings import Ingestion

PEAK, LEFT = 400, 150
"""MiB that the largest may take beyond the process as it was, and that the process may hold afterwards."""

_SIDES = (10_000, 8_000, 7_000, 6_000, 5_000, 4_800, 4_000)  # from the most pixels that ingestion takes


def _writer(format: str, mode: str = "RGB", **options: object) -> Callable[[int], bytes]:
    def write(side: int) -> bytes:
        colour = tuple(40 * (band + 1) for band in range(len(Image.new(mode, (1, 1)).getbands())))
        image = Image.new(mode, (side, side), colour if len(colour) > 1 else colour[0])
        stream = io.BytesIO()
        image.save(stream, format, **options)
        return stream.getvalue()

    return write


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
    "HEIC": _writer("HEIF", quality=10),
    "AVIF": _writer("AVIF", quality=10, speed=10),
    "AVIF, 4:4:4, with alpha": _writer("AVIF", "RGBA", quality=10, speed=10, subsampling="4:4:4"),
}
"""How the photo of each format is written; one colour, for what is decoded takes the same for any."""

_CHILD = r"""
import io, re, sys
from pathlib import Path
from PIL import Image
from components.scorer import decoding
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
    """Print a row for each format.

    Returns:
        1 where one takes more than `PEAK` or leaves more than `LEFT`, else 0.
    """
    worst = [0.0, 0.0]
    print("| format | largest accepted, megapixels | peak, MiB | left, MiB |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, write in FORMATS.items():
            side, data = _largest(write)
            path = Path(folder, "photo")
            path.write_bytes(data)
            done = subprocess.run([sys.executable, "-c", _CHILD, path], capture_output=True, text=True, check=True)
            peak, left = map(float, re.findall(r"\S+", done.stdout))
            worst = [max(worst[0], peak), max(worst[1], left)]
            print(f"| {name} | {side * side / 1e6:.0f} | {peak:.0f} | {left:.0f} |", flush=True)
    print(f"| worst | | {worst[0]:.0f} (at most {PEAK}) | {worst[1]:.0f} (at most {LEFT}) |")
    return int(worst[0] > PEAK or worst[1] > LEFT)


def _largest(write: Callable[[int], bytes]) -> tuple[int, bytes]:
    """The largest side that is accepted, and the photo."""
    settings = replace(Ingestion(), minimum_side=1)
    small = write(256)
    for side in _SIDES:
        if decoding.needed(small, settings)[1] * (side / 256) ** 2 > 1.5 * decoding.MEMORY:
            continue  # not worth being written
        data = write(side)
        if decoding.needed(data, settings)[1] <= decoding.MEMORY:
            return side, data
    raise ValueError("expected a photo that is accepted, got none")


if __name__ == "__main__":
    sys.exit(main())

"""JPEG structure read from the markers, before decoding (ITU-T T.81, annex B): scans and completeness."""

import re
from typing import NamedTuple

END_OF_IMAGE = b"\xff\xd9"
"""End-of-image marker (EOI)."""

_EOI, _SOS = 0xD9, 0xDA
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn
# Any marker with a length, so not TEM, RSTn or SOI. FF 00 is a stuffed 255 byte among the coefficients.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_LAST_COEFFICIENT = 63  # index of the last of a block's 64 coefficients


class JpegStructure(NamedTuple):
    """Structure of the first image of a file. Data after the image, such as a motion photo's film, is ignored.

    Attributes:
        scans: Number of scans, counted up to one above the limit.
        has_end_marker: True if the end-of-image marker is present.
        complete: True if the scans hold every coefficient of every component to its last bit.
    """

    scans: int
    has_end_marker: bool
    complete: bool


def read_structure(data: bytes, max_scans: int) -> JpegStructure:
    """Return the structure of the first image of a JPEG.

    Args:
        data: JPEG file, or its beginning.
        max_scans: Largest number of scans. Reading stops at the first scan above it.
    """
    offset, scans = 2, 0
    components = 0
    missing: dict[int, list[int]] = {}  # for each component, the low bits that each coefficient still lacks
    while match := _MARKER.search(data, offset):
        offset, marker = match.end(), match[1][0]
        if marker == _EOI:
            return JpegStructure(scans, True, _is_complete(components, missing))
        if marker in _SOF:
            components = int.from_bytes(data[offset + 7 : offset + 8])
        if marker == _SOS:
            scans += 1
            if scans > max_scans:
                break
            _record_scan(data[offset : offset + 2 + 1 + 8 + 3], missing)
        offset += int.from_bytes(data[offset : offset + 2])
    return JpegStructure(scans, False, _is_complete(components, missing))


def _record_scan(header: bytes, missing: dict[int, list[int]]) -> None:
    """Record in ``missing`` the coefficients and bits that a scan delivers, from its header (SOS)."""
    count = header[2] if len(header) > 2 else 0
    if not 1 <= count <= 4 or len(header) < 6 + 2 * count:
        return
    first, last, low_bits = header[3 + 2 * count : 6 + 2 * count]
    for component in header[3 : 3 + 2 * count : 2]:
        missing_bits = missing.setdefault(component, [_LAST_COEFFICIENT] * (_LAST_COEFFICIENT + 1))
        for coefficient in range(min(first, _LAST_COEFFICIENT), min(last, _LAST_COEFFICIENT) + 1):
            missing_bits[coefficient] = low_bits & 15


def _is_complete(components: int, missing: dict[int, list[int]]) -> bool:
    return len(missing) == components > 0 and not any(map(any, missing.values()))

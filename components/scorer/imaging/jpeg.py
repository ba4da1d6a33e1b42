"""What the markers of a JPEG tell before it is decoded (ITU-T T.81, annex B): its scans, and whether it is whole."""

import re
from typing import NamedTuple

END = b"\xff\xd9"
"""The marker at a JPEG's end."""

_END, _SCAN = 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn
# Any marker but those without a length: TEM, RSTn and SOI. 0 stands for a byte 255 among the coefficients.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_LAST = 63  # of the 64 coefficients of a block


class Outline(NamedTuple):
    """What the first image of a file consists of; what follows it, as a motion photo's film, is not looked at.

    Attributes:
        scans: how often the image is gone over; counted up to one more than ``most``.
        ended: there is the marker of its end.
        complete: the scans hold each coefficient of each component, to its last bit.
    """

    scans: int
    ended: bool
    complete: bool


def outline(data: bytes, most: int) -> Outline:
    """The outline of the first image of a JPEG; of more scans than ``most`` no more is read."""
    place, scans = 2, 0
    components, missing = 0, {}  # of each component, the low bits that each coefficient still lacks
    while found := _MARKER.search(data, place):
        place, marker = found.end(), found[1][0]
        if marker == _END:
            return Outline(scans, True, _complete(components, missing))
        if marker in _FRAMES:
            components = int.from_bytes(data[place + 7 : place + 8])
        if marker == _SCAN:
            scans += 1
            if scans > most:
                break
            _note(data[place : place + 2 + 1 + 8 + 3], missing)
        place += int.from_bytes(data[place : place + 2])
    return Outline(scans, False, _complete(components, missing))


def _note(header: bytes, missing: dict[int, list[int]]) -> None:
    """Enter what a scan brings, by its header."""
    count = header[2] if len(header) > 2 else 0
    if not 1 <= count <= 4 or len(header) < 6 + 2 * count:
        return
    first, last, bits = header[3 + 2 * count : 6 + 2 * count]
    for component in header[3 : 3 + 2 * count : 2]:
        lacks = missing.setdefault(component, [_LAST] * (_LAST + 1))
        for place in range(min(first, _LAST), min(last, _LAST) + 1):
            lacks[place] = bits & 15


def _complete(components: int, missing: dict[int, list[int]]) -> bool:
    return len(missing) == components > 0 and not any(map(any, missing.values()))

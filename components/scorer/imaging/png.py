"""Texts and colour profiles in a PNG, where they are too large (PNG specification, third edition, section 11.3)."""

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_TEXTS = (b"iCCP", b"iTXt", b"zTXt", b"tEXt")


def without_large_texts(data: bytes, most: int) -> bytes:
    """A PNG without those texts and colour profiles that are unpacked to more than so many bytes, each or all together.

    Args:
        data: of a file that begins with `SIGNATURE`.
        most: bytes.

    Returns:
        The file, or the same bytes where there is nothing to leave out; pixels are the same.
    """
    place, kept, parts, left = len(SIGNATURE), 0, [], most
    while place + 12 <= len(data):
        name, end = data[place + 4 : place + 8], place + 12 + int.from_bytes(data[place : place + 4])
        if name in _TEXTS and end <= len(data):
            size = _unpacked(name, data[place + 8 : end - 4], left)
            if size > left:
                parts.append(memoryview(data)[kept:place])
                kept = end
            else:
                left -= size
        place = end
    return b"".join([*parts, memoryview(data)[kept:]]) if parts else data


def _unpacked(name: bytes, content: bytes, most: int) -> int:
    """Bytes of a text or profile; of a larger one than ``most`` one more than that."""
    _, _, packed = content.partition(b"\0")
    if name == b"iTXt":  # keyword, whether it is packed, how, language, translated keyword, text
        zipped, packed = packed[:1] == b"\1", packed[2:].split(b"\0", 2)[-1]
    else:  # keyword, how it is packed, text
        zipped, packed = name != b"tEXt", packed[1:]
    if not zipped:
        return len(content)
    try:
        return len(zlib.decompressobj().decompress(packed, most + 1))
    except zlib.error:
        return 0

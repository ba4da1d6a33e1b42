"""Removal of oversized text and colour-profile chunks from PNG files (PNG specification, 3rd edition, section 11.3)."""

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_TEXT_CHUNKS = (b"iCCP", b"iTXt", b"zTXt", b"tEXt")


def drop_large_text_chunks(data: bytes, max_bytes: int) -> bytes:
    """Return a PNG without text and colour-profile chunks that exceed a size when unpacked.

    The size limits the sum of the kept chunks, too. Pixels are unchanged.

    Args:
        data: File content that begins with `SIGNATURE`.
        max_bytes: Limit of the unpacked size, bytes.

    Returns:
        The file without these chunks; ``data`` itself if no chunk is removed.
    """
    offset, kept_from, parts, budget = len(SIGNATURE), 0, [], max_bytes
    while offset + 12 <= len(data):
        name, end = data[offset + 4 : offset + 8], offset + 12 + int.from_bytes(data[offset : offset + 4])
        if name in _TEXT_CHUNKS and end <= len(data):
            size = _unpacked_size(name, data[offset + 8 : end - 4], budget)
            if size > budget:
                parts.append(memoryview(data)[kept_from:offset])
                kept_from = end
            else:
                budget -= size
        offset = end
    return b"".join([*parts, memoryview(data)[kept_from:]]) if parts else data


def _unpacked_size(name: bytes, content: bytes, max_bytes: int) -> int:
    """Return the unpacked size of a text or profile chunk, bytes; ``max_bytes + 1`` if it is larger."""
    _, _, payload = content.partition(b"\0")
    if name == b"iTXt":  # keyword, compression flag, compression method, language, translated keyword, text
        compressed, payload = payload[:1] == b"\1", payload[2:].split(b"\0", 2)[-1]
    else:  # keyword, compression method, text
        compressed, payload = name != b"tEXt", payload[1:]
    if not compressed:
        return len(content)
    try:
        return len(zlib.decompressobj().decompress(payload, max_bytes + 1))
    except zlib.error:
        return 0

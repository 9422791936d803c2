"""What a file holds, for messages about files that are not what their name says."""

from __future__ import annotations

__all__ = ["describe_content"]

_SIGNATURES = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x1aE\xdf\xa3", "a Matroska file"),
    (b"OggS", "an Ogg file"),
    (b"\x7fELF", "a program"),
)


def describe_content(head: bytes) -> str:
    """Name the kind of data by its first bytes, such as "plain text" or "a damaged PNG image".

    Args:
        head: The first bytes of a file that could not be decoded, 512 or so.
    """
    if not head:
        return "an empty file"
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            image = kind.endswith("image")
            return kind.replace("a ", "a damaged ", 1) if image else kind
    if head[4:8] == b"ftyp":
        return "a damaged MP4 file"
    if head[:4] == b"RIFF":
        return f"a RIFF file ({head[8:12].decode('ascii', 'replace').strip()})"
    # cut inside a character at most: UTF-8 characters have up to four bytes
    text = head.decode("utf-8", "ignore")
    whole = len(text.encode()) >= len(head) - 3
    readable = all(character.isprintable() or character in "\t\r\n\f" for character in text)
    return "plain text" if whole and readable else "unknown data"

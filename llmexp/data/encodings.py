"""Which encoding a file is written in, asked when the one that was named does not read it."""

from __future__ import annotations

import codecs
import re

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Where latin-1 has control characters cp1252 has quotation marks and dashes.
WINDOWS = re.compile(rb"[\x80-\x9f]")
ESCAPED = re.compile("[\udc80-\udcff]")


def readable_as(data: bytes) -> str:
    """The likeliest encoding that reads all of the bytes; latin-1 reads any."""
    marked = [name for mark, name in MARKS.items() if data.startswith(mark)]
    wide = ["utf-16-le", "utf-16-be"] if data[:4].count(0) >= 2 else []
    narrow = ["cp1252"] if WINDOWS.search(data) else []
    for name in [*marked, *wide, "utf-8", *narrow]:
        try:
            data.decode(name)
        except UnicodeError:
            continue
        return name
    return "latin-1"


def lost(text: str) -> int | None:
    """The first byte that the `surrogateescape` handler could not decode, if there is one."""
    match = ESCAPED.search(text)
    return ord(match[0]) - 0xDC00 if match else None

"""Yields the lines of a text file in bounded memory: decompresses and decodes it, and names what is not a text file."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.params import Data

HEAD_BYTES = 4096
CHUNK_BYTES = 2**20
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
BYTE_ORDER_MARKS = (  # the longest first: UTF-32 begins as UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
UNDECODABLE = re.compile("[\udc80-\udcff]")  # the bytes that are not UTF-8, as `surrogateescape` decodes them
DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error, pa.ArrowException)
COMPRESSIONS: dict[str, Callable[[Path], Any]] = {  # suffix → open for reading
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda path: pa.input_stream(str(path), compression="zstd"),
}
OTHER_CONTENT = (  # first bytes, what the file is, what to do
    (rb"PAR1[\x00-\x1f]", "this is a parquet file", "name it {path}.parquet"),
    (rb"PK\x03\x04", "this is a zip file or a spreadsheet", "unpack it, or save the spreadsheet as csv"),
    (rb"\xd0\xcf\x11\xe0", "this is a spreadsheet of an old Excel", "save it as csv"),
    (rb"\x1f\x8b", "this is compressed with gzip", "name it {path}.gz"),
    (rb"BZh\d1AY&SY", "this is compressed with bzip2", "name it {path}.bz2"),
    (rb"\xfd7zXZ\x00", "this is compressed with xz", "name it {path}.xz"),
    (rb"\x28\xb5\x2f\xfd", "this is compressed with zstd", "name it {path}.zst"),
    (rb"%PDF-", "this is a PDF", "save its table as csv"),
    (rb"(?i)\s*<(!doctype\s|html\b)", "this is a web page, often a sign-in page in place of a download", "fetch the file itself"),
)


class EncodingError(InputError):
    """Lines that are not UTF-8, in a file that was read to its end."""


def text_lines(path: Path, data: Data) -> Iterator[str]:
    """Yield each line with its end.

    Raise `InputError` for other content, a line over `data.max_row_bytes`, and a file that holds, or unpacks to, more than
    `data.max_file_bytes`. Lines that are not UTF-8 are yielded too, and `EncodingError` is raised at the end, so that a reader
    meets the other faults of the file as well.
    """
    encoding = _encoding(path, read_head(path))
    undecodable: list[tuple[int, str]] = []  # number and content of the first line; only the number of further ones
    number = 0
    with _opened(path) as binary, io.BufferedReader(_Budget(binary, path, data)) as bounded:
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        text = io.TextIOWrapper(bounded, encoding=encoding, newline="", errors=errors)
        while True:
            number += 1
            try:
                line = text.readline(data.max_row_bytes + 1)
            except UnicodeDecodeError as error:
                what = f"it begins as {error.encoding} does, and is not: {error.reason}"
                raise InputError(str(path), what, "save it as UTF-8") from None
            except DAMAGED as error:
                raise _damaged(path, error) from None
            if not line:
                break
            if 4 * len(line) > data.max_row_bytes and len(line.encode("utf-8", "surrogateescape")) > data.max_row_bytes:
                raise InputError(
                    f"{path}, line {number}",
                    f"the row is longer than {data.max_row_bytes} bytes",
                    "cut it (an unclosed quote or a binary file looks like this), or raise data.max_row_bytes",
                )
            if not line.isascii() and UNDECODABLE.search(line):
                undecodable.append((number, "" if undecodable else line))
                if number == 1:  # the header, or no text at all
                    raise InputError(*_not_utf8(path, undecodable))
                line = UNDECODABLE.sub("\ufffd", line)
            yield line
    if undecodable:
        raise EncodingError(*_not_utf8(path, undecodable))


def count_lines(path: Path, data: Data) -> int:
    """Return the number of line ends in the file, of no more than `data.max_file_bytes` unpacked bytes."""
    lines = read = 0
    with _opened(path) as file:
        while read < data.max_file_bytes and (chunk := file.read(CHUNK_BYTES)):
            lines, read = lines + chunk.count(b"\n"), read + len(chunk)
    return lines


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked; raise `InputError` when they show that it is no table of texts."""
    try:
        with _opened(path) as file:
            head: bytes = file.read(HEAD_BYTES)
    except DAMAGED as error:
        raise _damaged(path, error) from None
    if head.startswith(LFS_POINTER):
        raise InputError(
            str(path), "this is a pointer of git-LFS, not the file itself", f"fetch it: git lfs pull --include '{path}'"
        )
    if path.suffix.lower() != ".parquet":
        for start, what, do in OTHER_CONTENT:
            if re.match(start, head):
                raise InputError(str(path), what, do.format(path=path))
    return head


def _opened(path: Path) -> Any:
    """Open a file for reading bytes, unpacked."""
    return COMPRESSIONS[path.suffix.lower()](path) if path.suffix.lower() in COMPRESSIONS else path.open("rb")


def _encoding(path: Path, head: bytes) -> str:
    """Return the encoding that a byte order mark names, else UTF-8; UTF-16 without a mark is never guessed."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) > 0.3 * len(head) > 10 * min(even, odd):  # one half of the bytes is nearly all zero
        name = "UTF-16LE" if odd > even else "UTF-16BE"
        raise InputError(str(path), f"this looks like {name} without a byte order mark", _iconv(path, name))
    return "utf-8"


class _Budget(io.RawIOBase):
    """Passes bytes on, up to `data.max_file_bytes` of them; nothing is held."""

    def __init__(self, binary: BinaryIO, path: Path, data: Data) -> None:
        self._binary, self._path, self._data = binary, path, data
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the file goes."""
        chunk = self._binary.read(len(buffer))
        self._count += len(chunk)
        if self._count > self._data.max_file_bytes:
            raise too_large(self._path, self._count, self._data)
        buffer[: len(chunk)] = chunk
        return len(chunk)


def too_large(path: Path, size: int, data: Data) -> InputError:
    """Return the error for a file that holds, or unpacks to, at least `size` bytes."""
    compressed = path.suffix.lower() in COMPRESSIONS or path.suffix.lower() == ".parquet"
    holds = f"its {path.stat().st_size} bytes unpack to at least {size}" if compressed else f"it has {path.stat().st_size} bytes"
    return InputError(
        str(path), f"{holds}, data.max_file_bytes is {data.max_file_bytes}", "use a part of it, or raise data.max_file_bytes"
    )


def _not_utf8(path: Path, lines: list[tuple[int, str]]) -> tuple[str, str, str]:
    """Return the place of lines that are not UTF-8, the byte that begins the first fault, and what to do."""
    number, line = lines[0]
    content = line.encode("utf-8", "surrogateescape")
    at = UNDECODABLE.search(line)
    start = len(line[: at.start() if at else 0].encode())
    more = f"; {len(lines) - 1} more lines are not either" if len(lines) > 1 else ""
    what = f"byte {start + 1} (0x{content[start]:02x}) is not UTF-8{more}"
    return f"{path}, line {number}", what, _iconv(path, "WINDOWS-1252")


def _iconv(path: Path, encoding: str) -> str:
    return f"convert the file, for example: iconv -f {encoding} -t UTF-8 '{path}' > '{path.with_stem(path.stem + '-utf8')}'"


def _damaged(path: Path, error: BaseException) -> InputError:
    return InputError(str(path), f"it cannot be read to its end: {error or type(error).__name__}", "copy or fetch it again")

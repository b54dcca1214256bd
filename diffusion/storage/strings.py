"""Lists of strings as two arrays, for directories of arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack_strings(strings: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 bytes of all strings together, and where each string ends in them.

    File names that are not valid UTF-8 are kept, as `os.fsdecode` returns them.
    """
    encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
    ends = np.cumsum([len(string) for string in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def unpack_strings(content: NDArray[Any], ends: NDArray[Any]) -> list[str]:
    """Return the strings that `pack_strings` packed.

    Raises
    ------
    ValueError
        If the arrays are no such pair.
    """
    if (
        (content.dtype, ends.dtype) != (np.uint8, np.int64)
        or (content.ndim, ends.ndim) != (1, 1)
        # Compared and not subtracted, which could overflow.
        or (ends[1:] < ends[:-1]).any()
        or (ends[0] if len(ends) else 0) < 0
        or (ends[-1] if len(ends) else 0) != len(content)
    ):
        raise ValueError("expected the bytes of strings and where each of them ends")
    text, starts = content.tobytes(), [0, *ends[:-1].tolist()]
    return [
        text[start:end].decode("utf-8", "surrogateescape")
        for start, end in zip(starts, ends.tolist(), strict=False)
    ]


# Characters that a terminal obeys or that end a line: control characters, marks that turn the
# direction of text, and bytes of file names that are no text.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return text for one line of a terminal, with escapes in place of control characters.

    Names of files, and whatever else comes from a file, pass through this before they are printed.

    >>> print(printable("\x1b[31mred.jpg"))
    \x1b[31mred.jpg
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)

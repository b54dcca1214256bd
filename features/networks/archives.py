"""Archives that may not be bombs."""

from __future__ import annotations

import zipfile


def check_stored(archive: zipfile.ZipFile, length: int) -> None:
    """Raise a ValueError if an archive of so many bytes could be a bomb.

    Neither torch nor `numpy.savez` compresses. What is compressed could inflate to anything, and so
    could parts that lie in the same place of the file.
    """
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError("its parts are compressed")
    if sum(max(part.file_size, part.compress_size) for part in parts) > length:
        raise ValueError("its parts are larger than the file")

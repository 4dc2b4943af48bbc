"""Files that appear whole or not at all, and survive a power cut.

Owns: the order of write, fsync and rename. Refuses to know what is written. Called by the registry, the audit log's
export and erasure.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_atomically(path: Path, parts: Iterable[bytes], *, mode: int = 0o600) -> None:
    """Write `parts` to a file beside `path`, fsync it, and rename it over `path`.

    Raises: OSError where the folder can't be written to; the old file is then untouched.
    """
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that nobody ever sees half of it: renamed out of the way first."""
    doomed = folder.with_name(f".trash-{folder.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    folder.rename(doomed)
    sync_folder(folder.parent)
    shutil.rmtree(doomed)

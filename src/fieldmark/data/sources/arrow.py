"""Pictures inside an Arrow file, as the library `datasets` keeps them: `FILE.arrow#17`.

The column stands behind the file's name, `FILE.arrow:photo#17`, where the file has not exactly one
of pictures. Reading needs pyarrow, no network, and none of `datasets`.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

from fieldmark.errors import PictureError

_ENDING: Final = ".arrow"
_MAX_OPEN_FILES: Final = 64  # mapped into memory, not read
_open: OrderedDict[tuple[str, int, int], Any] = OrderedDict()
_lock = threading.Lock()


def is_arrow_locator(path: str) -> bool:
    """By its form alone: `FILE.arrow#17` or `FILE.arrow:COLUMN#17`."""
    bundle, hash_sign, index = path.rpartition("#")
    return bool(hash_sign) and index.isdecimal() and _split(bundle)[0].endswith(_ENDING)


def locator(file: str, row: int, column: str, schema: Any) -> str:
    """The name of a picture in an Arrow file with that pyarrow schema."""
    is_only_one = picture_columns(schema) == [column]
    return f"{file}#{row}" if is_only_one else f"{file}:{column}#{row}"


def picture_columns(schema: Any) -> list[str]:
    """Columns that `datasets` has marked as pictures, in the file's order."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        kinds = {name: about[name].get("_type") for name in schema.names if name in about}
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return [name for name, kind in kinds.items() if kind == "Image"]


def read_arrow(path: str) -> bytes:
    """The encoded picture that a locator names: the bytes of a JPEG, say.

    Raises:
        PictureError: no such file, row or column, or no bytes in it.
    """
    bundle, _, index = path.rpartition("#")
    file, column = _split(bundle)
    table = open_table(file)
    if not column:
        columns = picture_columns(table.schema)
        if len(columns) != 1:
            raise PictureError(f"{len(columns)} columns of pictures in that file")
        column = columns[0]
    if column not in table.schema.names:
        raise PictureError(f"no column {column} in that file")
    if int(index) >= table.num_rows:
        raise PictureError(f"there are only {table.num_rows:,} pictures in that file")
    value = table.column(column)[int(index)].as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise PictureError("no picture in that row")
    return content


def open_table(file: str) -> Any:
    """The pyarrow table of an Arrow stream, mapped into memory; recently used ones are kept.

    Raises:
        PictureError: it cannot be opened.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise PictureError("needs pyarrow: pip install 'fieldmark[datasets]'") from error
    try:
        status = Path(file).stat()
        key = (file, status.st_mtime_ns, status.st_size)
        with _lock:
            if key not in _open:
                _open[key] = pyarrow.ipc.open_stream(pyarrow.memory_map(file)).read_all()
                while len(_open) > _MAX_OPEN_FILES:
                    _open.popitem(last=False)
            _open.move_to_end(key)
            return _open[key]
    except FileNotFoundError as error:
        raise PictureError("no such file") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise PictureError(f"its Arrow file cannot be read: {str(error)[:80]}") from error


def _split(bundle: str) -> tuple[str, str]:
    """File and column; the column is empty where none is named."""
    file, colon, column = bundle.rpartition(f"{_ENDING}:")
    return (file + _ENDING, column) if colon else (bundle, "")

"""Files and flags -> typed, frozen dataclasses; nothing that is read is ever executed.

Every fault is an `InputError`: one sentence with the file, key or flag, the value found, what is accepted and the
nearest valid name. Nothing heavy is imported, so that ``--help`` answers at once.
"""

from yolov7.config.errors import InputError, RunError, nearest, reason_of, unknown
from yolov7.config.files import (
    SHIPPED,
    atomic_path,
    atomic_write,
    checksum,
    find_yaml,
    is_file,
    read_bytes,
    read_text,
    read_yaml,
    shipped_file,
    shipped_files,
    short_name,
)
from yolov7.config.flags import parse_arguments
from yolov7.config.paths import CACHE_VARIABLE, chosen_cache, user_cache
from yolov7.config.plain_yaml import parse_yaml
from yolov7.config.schema import check_ranges, convert, from_mapping, option, override, to_mapping

__all__ = [
    "CACHE_VARIABLE", "SHIPPED", "InputError", "RunError", "atomic_path", "atomic_write", "check_ranges",
    "checksum", "chosen_cache", "convert", "find_yaml", "from_mapping", "is_file", "nearest", "option", "override",
    "parse_arguments", "parse_yaml", "read_bytes", "read_text", "read_yaml", "reason_of", "shipped_file",
    "shipped_files", "short_name", "to_mapping", "unknown", "user_cache"]

"""The files of a bundle: their names, and what the manifest says about each."""

from __future__ import annotations

import re
from typing import TypedDict

from szn_runtime.errors import BundleError

__all__ = [
    "LABELS_FILE",
    "MANIFEST_FILE",
    "MAX_FILE_BYTES",
    "MODEL_CARD_FILE",
    "PROJECTION_FILE",
    "VOCABULARY_FILE",
    "FileFacts",
    "check_file_name",
]

MANIFEST_FILE = "manifest.json"
LABELS_FILE = "labels.npz"
PROJECTION_FILE = "projection.npz"
VOCABULARY_FILE = "vocabulary.npz"
MODEL_CARD_FILE = "MODEL_CARD.md"
# protobuf's own limit: larger ONNX models keep their weights in other files
MAX_FILE_BYTES = (1 << 31) - 1

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class FileFacts(TypedDict):
    """What a file of the bundle must be."""

    sha256: str
    bytes: int


def check_file_name(name: object) -> None:
    """Refuse names that could lead outside the bundle's folder.

    Raises:
        BundleError: If the name is not a plain file name of letters, digits, `.`, `_` and `-`.
    """
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name) or name == MANIFEST_FILE:
        raise BundleError(
            "the bundle names a file that cannot be one of its own",
            got=repr(name),
            expected="a plain name of letters, digits, '.', '_' and '-'",
        )

"""Everything SZN raises on purpose.

```
SznError                    exit code 1
├── UsageError              exit code 2: options that contradict each other
├── InputError              a file, folder, frame or array that cannot be used
│   ├── SourceError         an image, video, camera or stream that cannot be read
│   ├── SinkError           an output that cannot be written
│   └── LabelError          a label name that the vocabulary does not hold
├── BundleError             a model bundle that is missing, damaged or of another version
├── BackendError            an inference backend that failed or is not what was asked for
├── MissingDependencyError  a library or system package that is not installed
├── TrainingError           (szn_train) a training run that cannot start or go on
└── ExportError             (szn_export) an export that failed
    └── GateError           exit code 3: an artefact that differs from PyTorch past its budget
```

A message is one line with the facts in a row: what is wrong, what came, what was expected, and
what to do about it.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BundleError",
    "ExportError",
    "GateError",
    "InputError",
    "LabelError",
    "MissingDependencyError",
    "SinkError",
    "SourceError",
    "SznError",
    "TrainingError",
    "UsageError",
]


class SznError(Exception):
    """Base of every error that SZN raises on purpose.

    Args:
        what: What is wrong, naming the file, tensor or option.
        got: The value that came, if it says something that `what` does not.
        expected: What would have been accepted.
        fix: What to do about it, as an instruction.

    Example:
        >>> str(SznError("model.onnx is damaged", got="12 bytes", fix="export again"))
        'model.onnx is damaged: got 12 bytes; export again'
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        got: object | None = None,
        expected: object | None = None,
        fix: str | None = None,
    ) -> None:
        """Keep the parts, so that callers can show them apart."""
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        facts = []
        if got is not None:
            facts.append(f"got {got}")
        if expected is not None:
            facts.append(f"expected {expected}")
        message = what + (": " + ", ".join(facts) if facts else "") + (f"; {fix}" if fix else "")
        super().__init__(" ".join(message.split()))


class UsageError(SznError):
    """Options that contradict each other or miss one another."""

    exit_code = 2


class InputError(SznError):
    """A file, folder, frame or array that cannot be used."""


class SourceError(InputError):
    """An image, video, camera or stream that cannot be opened or read."""


class SinkError(InputError):
    """An output that cannot be written."""


class LabelError(InputError):
    """A label name that the vocabulary does not hold."""


class BundleError(SznError):
    """A model bundle that is missing, damaged or of another version."""


class BackendError(SznError):
    """An inference backend that failed or is not what was asked for."""


class MissingDependencyError(SznError):
    """A library or system package that is not installed."""


class TrainingError(SznError):
    """A training run that cannot start or go on."""


class ExportError(SznError):
    """An export that failed."""


class GateError(ExportError):
    """An exported artefact that differs from PyTorch past its budget."""

    exit_code = 3

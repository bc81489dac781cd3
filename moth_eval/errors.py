"""Every exception that moth-eval raises on purpose, in one tree.

::

    MothError                   exit code 2; says what was expected, what came, how to mend it
    |-- InputError              a file, folder, option or value that the user gave
    |   |-- RoundError          a folder that cannot be read as a round of models
    |   `-- ArchitectureError   no network is known under that name, or its weights do not fit
    |-- RefusedFile             a model file that is not opened because that would not be safe
    |-- RunError                a run folder that is damaged, or holds another run
    |-- InstallationError       another distribution stands where ours should
    |-- OutOfMemory             the machine, or a limit on memory, stood in the way; exit code 3
    |-- ScanError               a scanner was given a subject it cannot work on
    `-- HardeningError          a hardener was given a subject or data it cannot work on
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ends."""

    DONE = 0
    """Everything has an answer, and none is something to look at."""
    FOUND = 1
    """Something to look at: a model above its threshold or refused, damage, a difference."""
    BAD_INPUT = 2
    """The call, or a file or value that it names, cannot be used."""
    INCOMPLETE = 3
    """Stopped, or something has no answer; it must not pass for one in which nothing was found."""

    @classmethod
    def of(cls, *, complete: bool) -> ExitCode:
        """Of a command that looks for nothing: whether everything has an answer."""
        return cls.DONE if complete else cls.INCOMPLETE


class MothError(Exception):
    """Base of everything raised on purpose; carries the exit code that it ends a command with."""

    exit_code = ExitCode.BAD_INPUT


class InputError(MothError):
    """Something the user gave is missing or malformed."""


class RoundError(InputError):
    """A folder cannot be read as a round of models."""


class ArchitectureError(InputError):
    """No network is known under the given name, or the weights do not fit it."""


class RefusedFile(MothError):  # noqa: N818 - a refusal is a result, not a mistake of ours
    """A model file is not opened because no safe way of reading it exists."""


class RunError(MothError):
    """A run folder is damaged or belongs to another run."""


class InstallationError(MothError):
    """Another distribution's package stands where one of ours should."""


class OutOfMemory(MothError):  # noqa: N818 - it is about the machine, no mistake of the caller's
    """Memory ran out, on the machine or under a limit: nothing is said about the model."""

    exit_code = ExitCode.INCOMPLETE


class ScanError(MothError):
    """A scanner was given a subject or parameters it cannot work on."""


class HardeningError(MothError):
    """A hardener was given a subject, data or parameters it cannot work on."""

"""The four errors, by who must act on them. Each says what happened and carries a hint: what to do about it.

Called by every room; a caller catches one of these, never `Exception`.
"""


class LearndError(Exception):
    """Base of the four. `str()` is the message, `hint` what the reader can do, possibly empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Transient(LearndError):
    """The world is away for now: the same call may succeed later."""


class Refused(LearndError):
    """A rule said no. Asking again changes nothing until the inputs change."""


class Misconfigured(LearndError):
    """A person must change a file or a setting (exit 78, not restarted)."""


class Corrupt(LearndError):
    """Stored state contradicts itself: stop and alert, never repair by guessing."""

"""The exceptions of the package. Those a user can cause say what to do next."""

from __future__ import annotations

import errno

from pdo_search.base.safetext import one_line, presentable

__all__ = ["Infeasible", "InputError", "PdoError", "StoreError", "disk_is_full"]

LONGEST_SHOWN = 300


class PdoError(Exception):
    """Base of every error this package raises on purpose. Exit code 1.

    Its text may hold what strangers wrote, and is printed by whoever catches it: it comes without
    secrets and control characters.
    """

    exit_code = 1

    def __str__(self) -> str:
        return presentable(super().__str__())


class InputError(PdoError):
    """Something the user gave is wrong; nothing has been started. Exit code 2.

    Args:
        problem: what is wrong, one sentence without a full stop.
        file: the file that holds the bad value, if any.
        path: where in the file, such as ``trial.temperature``.
        value: the value got; omitted from the message when not given.
        remedy: what to do about it, one sentence.
    """

    exit_code = 2
    _UNSET = object()

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        path: str | None = None,
        value: object = _UNSET,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.path = path
        self.value = value
        self.remedy = remedy
        super().__init__(self._text())

    def _text(self) -> str:
        # A line break in a name would begin a line of its own.
        where = ": ".join(one_line(part) for part in (self.file, self.path) if part)
        text = f"{where}: {self.problem}" if where else self.problem
        if self.value is not InputError._UNSET:
            text += f" (got {_shown(self.value)})"
        if self.remedy:
            text += f"\n  -> {self.remedy}"
        return text

    def at(
        self, *, file: object = None, path: str | None = None, remedy: str | None = None
    ) -> InputError:
        """The same error, with file, path or remedy filled in where it had none."""
        return InputError(
            self.problem,
            file=self.file if self.file is not None else file,
            path=self.path if self.path is not None else path,
            value=self.value,
            remedy=self.remedy or remedy,
        )

    def __reduce__(self) -> tuple[object, ...]:
        kwargs = {"file": self.file, "path": self.path, "remedy": self.remedy}
        if self.value is not InputError._UNSET:
            kwargs["value"] = _AsShown(_shown(self.value))
        return (_rebuild_input_error, (self.problem, kwargs))


def _shown(value: object) -> str:
    """A value as the message has it, long ones cut."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # A number of thousands of digits, a bottomless list.
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


class _AsShown(str):
    """A value that comes from another process, where it was made a text already."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _rebuild_input_error(problem: str, kwargs: dict[str, object]) -> InputError:
    return InputError(problem, **kwargs)  # type: ignore[arg-type]


class Infeasible(PdoError):
    """A configuration that cannot be run or breaks a limit: not a failure of the code.

    The sampler learns of it as a constraint, and the trial's status is ``infeasible``.
    """


class StoreError(PdoError):
    """An artifact could not be written, read or trusted."""


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a full disk or an exhausted quota.

    Also of libraries that write by themselves and keep only the system's words.
    """
    while error is not None:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            return True
        error = error.__cause__
    return False

"""The few exceptions there are, and who raises them.

Disk and link failures are not exceptions: they are values in completions. A refused state change
is a value too. Bugs of ours are AssertionErrors and are caught by nobody.
"""

from __future__ import annotations


class PeerError(Exception):
    """The peer broke the protocol: the connection goes (ProtocolError), the daemon lives.

    Raised by ``wire`` and by the engine's packet handlers; the text says what was received and
    what was expected.
    """


class MetadataError(Exception):
    """Metadata is not what it should be: attach is refused and nothing is written.

    number: DRBD's error number (112, 118, 119, 165, 170, ...), for the administrator's tools.
    """

    def __init__(self, text: str, number: int = 119) -> None:
        super().__init__(text)
        self.number = number


class ConfigError(Exception):
    """Something in a configuration file is wrong: where, and what was expected.

    line and column count from 1; 0 when the fault has no single place.
    """

    def __init__(
        self, text: str, file: str = "", line: int = 0, column: int = 0, exit_code: int = 10
    ) -> None:
        place = f"{file}:{line}:{column}: " if line else (f"{file}: " if file else "")
        super().__init__(place + text)
        self.file, self.line, self.column, self.exit_code = file, line, column, exit_code


class AdminError(Exception):
    """A command can't be carried out: a sentence for the administrator, and the exit status."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code

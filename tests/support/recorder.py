"""A double of a node that only remembers its events; fits every port."""

from __future__ import annotations

from replblk.engine.ports import ClientRequest, Command, DiskAnswer


class Recorder:
    """Every event in the order it came, and by kind."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.disk: dict[int, tuple[int, bytes | None]] = {}
        self.received: dict[int, bytes] = {}
        self.connected: list[int] = []
        self.accepted: list[int] = []
        self.lost: dict[int, str] = {}
        self.listen_failures: list[str] = []
        self.warnings: list[str] = []
        self.requests: list[ClientRequest] = []
        self.commands: list[Command] = []
        self.handlers: dict[int, tuple[int, str]] = {}
        self.wakes = 0
        self.steps = 0

    def on_disk_answers(self, answers: list[DiskAnswer]) -> None:
        for op, errno, data in answers:
            assert op not in self.disk, f"operation {op} answered twice"
            self.disk[op] = (errno, None if data is None else bytes(data))
            self.events.append(("disk", op, errno))

    def on_link_connected(self, link: int) -> None:
        self.connected.append(link)
        self.events.append(("connected", link))

    def on_link_accepted(self, link: int) -> None:
        self.accepted.append(link)
        self.events.append(("accepted", link))

    def on_link_bytes(self, link: int, data: bytes) -> None:
        assert link not in self.lost, "bytes after the loss of a link"
        self.received[link] = self.received.get(link, b"") + data
        self.events.append(("bytes", link, len(data)))

    def on_link_lost(self, link: int, why: str) -> None:
        assert link not in self.lost, f"link {link} lost twice"
        self.lost[link] = why
        self.events.append(("lost", link))

    def on_listen_failed(self, why: str) -> None:
        self.listen_failures.append(why)

    def on_handler_done(self, number: int, exit_code: int, trouble: str) -> None:
        assert number not in self.handlers, f"handler {number} ended twice"
        self.handlers[number] = (exit_code, trouble)

    def on_wake(self) -> None:
        self.wakes += 1

    def on_client_requests(self, requests: list[ClientRequest]) -> None:
        self.requests += requests

    def on_command(self, command: Command) -> None:
        self.commands.append(command)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def step(self) -> None:
        self.steps += 1

"""How long the phases of writes took in one step, put into the histograms at its end."""

from __future__ import annotations

from replblk.model.latency import Latencies


class WriteTimes:
    """What a step measured, in nanoseconds. at_once: how many writes waited for nothing."""

    def __init__(self, latencies: Latencies) -> None:
        self._latencies = latencies
        self.at_once = 0
        self.disk_ns: list[int] = []
        self.peer_ns: list[int] = []
        self.write_ns: list[int] = []

    def waited(self, admission_ns: int, activity_log_ns: int) -> None:
        """A write had to wait before it was submitted."""
        self._latencies.admission.record(admission_ns)
        self._latencies.activity_log.record(activity_log_ns)

    def step_ended(self) -> None:
        """Put what the step measured into the histograms."""
        latencies = self._latencies
        if self.at_once:
            latencies.admission.record_at_once(self.at_once)
            latencies.activity_log.record_at_once(self.at_once)
            self.at_once = 0
        if self.disk_ns:
            latencies.disk.record_all(self.disk_ns)
            self.disk_ns.clear()
        if self.peer_ns:
            latencies.peer.record_all(self.peer_ns)
            self.peer_ns.clear()
        if self.write_ns:
            latencies.write.record_all(self.write_ns)
            self.write_ns.clear()

"""What a state change is judged by, beside the old and the wanted state of the volume."""

from __future__ import annotations

from dataclasses import dataclass

from replblk.model.state import State
from replblk.model.vocabulary import DiskState, Fencing, OnNoData


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Options, the other volumes and the connection, as far as the rules ask about them."""

    two_primaries: bool = False  # net option allow-two-primaries
    fencing: Fencing = Fencing.DONT_CARE  # counts only while a local disk is attached
    on_no_data: OnNoData = OnNoData.IO_ERROR
    verify_alg: str = ""  # "": online verify is not configured
    apv: int = 101  # agreed protocol version
    device_open: bool = False  # a client holds the device open
    other_volume_peer_primary: bool = False  # the peer is Primary on another volume
    handshake_pending: bool = False  # parameters sent, a volume still in WFReportParams
    has_net: bool = True  # there is a net configuration
    exposed_is_current: bool = False  # the data last served is that of our current UUID
    kept_disk: DiskState | None = None  # what attach found, while the disk is Negotiating
    kept_pdsk: DiskState | None = None

    def fencing_of(self, state: State) -> Fencing:
        """The fencing policy that counts in *state*: none without an attached local disk."""
        return self.fencing if state.disk >= DiskState.INCONSISTENT else Fencing.DONT_CARE

"""Decisions over values: what state may follow, who resyncs from whom, how large, how fast. No I/O.

Every function is pure and total; nothing here knows packets, disks or clocks.

* ``transitions``     may a volume go from here to there: the pipeline of one state change
* ``facts``           what such a decision depends on beside the two states
* ``sanitizing``      what a wanted state implies (rules S1 to S10)
* ``permits``         hard, validity and soft rules (H, V and T), as tables
* ``state_requests``  state changes as mask and value, and the peer's point of view
* ``consequences``    what has to follow a committed change, in order
* ``generations``     when a new data generation begins
* ``uuid_compare``    who has the newer data, with DRBD's rule numbers
* ``split_brain``     the after-sb policies
* ``sync_handshake``  the whole decision at connect or attach, made of the two above
* ``attach_state``    the disk state that metadata flags stand for
* ``sizes``           the size both nodes agree on
"""

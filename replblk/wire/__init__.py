"""Packets to bytes and back: DRBD 8.4's protocol, versions 86 to 101. Values only, no I/O.

* ``commands``     the packet table: every command, its socket, its lengths; versions, flags, ids
* ``messages``     what the packets say, as frozen values
* ``layouts``      every packet's fields, by ``construct``
* ``packets``      payload bytes <-> messages, every field judged on the way in
* ``hot``          the same for the data plane's few packets, by ``struct``, many times faster
* ``framing``      headers 80, 95 and 100; a byte stream -> packets
* ``bitmap_code``  a bitmap <-> the packets of one bitmap exchange, plain and run-length coded
* ``auth``         challenge-response, and the digests that guard data

Whatever the peer's bytes hold, ``PeerError`` is all that reading them raises.
"""

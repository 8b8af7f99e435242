"""DRBD 8.4's metadata on disk (format v08), as bytes and as values. No I/O; nothing here writes.

* ``layout``          where superblock, activity log and bitmap lie
* ``superblock``      4 KiB <-> value, its acceptance tests and the flag bits
* ``al_transaction``  one 4 KiB block of the activity log <-> value, and the replay after a crash
* ``activity_log``    which 4 MiB extents are hot: says what must be durable first
* ``bitmap``          which 4 KiB blocks the peer lacks: set, clear, next, count, dirty pages
* ``dump``            the texts of ``dump-md``, ``get-gi`` and ``show-gi``
* ``detect``          what already lives on a device that is to be given metadata

All integers on disk are big-endian, but for the bitmap, a little-endian stream of bits.
"""

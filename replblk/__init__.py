"""replblk: synchronous block replication in userspace, compatible with DRBD 8.4.

Floors, lowest first (a file imports from lower floors only):

* ``model``   words: enums, units, frozen values
* ``wire`` ``meta`` ``rules`` ``admin``   packets, metadata, decisions, text: bytes and values only
* ``engine``  one node without I/O: the paths a block travels
* ``shell`` and ``sim``   one node in two worlds: real disks and sockets, or a seeded simulation
* ``cli``     what an administrator types
"""

__version__ = "0.1.0"

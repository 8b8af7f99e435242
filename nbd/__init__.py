"""A Network Block Device server and client that know nothing of replication.

* ``protocol``      the numbers and structures of the NBD protocol
* ``export``        what a server needs of a disk: the seam to whoever uses this package
* ``handshake``     option haggling, sans-I/O; ``option_data`` reads what options carry
* ``transmission``  requests and replies, sans-I/O; ``reply_forms`` builds the replies,
  ``block_status`` describes ranges
* ``alignment``     byte-wise clients on a disk of whole blocks: read-modify-write under locks
* ``server``        sockets, on asyncio's loop or uvloop's; ``connection``: one client of it
* ``tls``           certificates and keys for servers and clients that speak TLS
* ``activation``    the sockets systemd has opened; ``socket_files`` those it has not
* ``attach``        an export as the kernel's /dev/nbdX, over ``netlink`` and ``sysfs``
* ``address``       NBD URIs and listeners' addresses
* ``memory``        disks in memory: for tests, and for ``python -m nbd``
* ``client``        a small blocking client, over ``link`` (bytes), ``tls_stream`` and ``replies``
  (sans-I/O); ``dial`` connects it to what an NBD URI names
"""

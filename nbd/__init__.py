"""A Network Block Device server and client that know nothing of replication.

* ``protocol``      the numbers and structures of the NBD protocol
* ``export``        what a server needs of a disk: the seam to whoever uses this package
* ``handshake``     option haggling, sans-I/O
* ``transmission``  requests and replies, sans-I/O
* ``server``        sockets
* ``client``        a small blocking client
"""

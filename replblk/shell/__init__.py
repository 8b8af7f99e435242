"""The ports of a node over uvloop, real files and sockets, and the daemon that wires them together.

* ``turns``           one step of the node for each turn of the loop, then the ports' gathered work
* ``backing_device``  open, size and lock a block device or file
* ``disk``            the Disk port: reads, and the queue to the commit threads
* ``disk_writer``     group commit: merge neighbours, write, one fdatasync for the batch
* ``links``           the Links port: TCP to the peer; ``link`` is one connection
* ``clock``           the Clock port: monotonic time and chance
* ``client``          the Clients port: numbers requests and commands, finds who waits for an answer
* ``nbd_exports``     the volumes as NBD exports
* ``logs``            notices as log lines in DRBD's phrases
* ``metrics``         the status as Prometheus text; ``metrics_server`` answers scrapes
* ``run_files``       where a daemon keeps socket, lock, pid and log
* ``control_server``  commands over a unix socket; ``control_client`` is the other end
* ``daemon``          the wiring: one process a resource; ``spawn`` starts it in the background
* ``create_md``       writes new metadata; ``offline_md`` reads and repairs it while nothing runs;
                      ``md_device`` is a device opened for these
"""

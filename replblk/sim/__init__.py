"""Two real nodes in one process, driven by one seed: the simulator and its checkers.

* ``world``        the heap of events, virtual time, chance
* ``machine``      one computer: incarnations of a node on its old disks; kill, power cut, pause
* ``store``        the contents of a drive: what is read, and what a power cut may leave of it
* ``disk``         the Disk port: delays, any order of completion, errors by zone, contract checks
* ``links``        the Links port: TCP byte streams that lag, stall and break
* ``clock``        the Clock port
* ``client``       closed-loop users with self-describing data
* ``operator``     the cluster manager with perfect fencing; ``split_brain``: the one that errs
* ``options``      everything a seed decides, drawn once
* ``faults``       what goes wrong, and when; ``wider`` and ``wider_faults``: later profiles
* ``lies``         a disk that lies; ``storm``: an administrator without a plan
* ``strangers``    somebody else at the port
* ``register``     what each sector may read as
* ``checkers``     the invariants
* ``setup``        builds a pair, with ``image``: backing devices as create-md leaves them
* ``run``          one seed from start to verdict; ``runner``: many, in several processes
* ``transcript``   what happened, line by line, with ``packet_names``
"""

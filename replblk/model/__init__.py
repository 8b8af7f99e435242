"""The words everything else is said in: enums, units, frozen values. No behaviour, no I/O.

* ``vocabulary``  roles, states, policies: DRBD's numbers and DRBD's spellings
* ``units``       sectors, bitmap bits, extents and the only conversions between them
* ``state``       the state vector of a volume and DRBD's packed form of it
* ``generation``  the UUID set of a data generation
* ``config``      a resource as configured, every default resolved
* ``status``      a snapshot of a running node for status text, JSON and metrics
* ``notices``     what a node tells its observers
* ``errors``      the few exceptions there are
"""

"""One node without I/O: events in, submissions out. See ``node`` for the table of routes.

* ``ports``         the seams: Disk, Links, Clock, Clients, Observer
* ``node``          the only door: events in, routed by tables
* ``context``       what every path shares: state, configuration, services
"""

"""What an administrator types: ``replblk COMMAND RES``, with drbdadm's words and exit codes.

* ``main``               the command line and its global options; errors become sentences
* ``session``            one invocation: configuration, settings, run directory, what was named
* ``resource_commands``  up, down, run, primary, secondary, connect, disconnect, attach, ...
* ``status_commands``    role, cstate, dstate, status, proc, dump
* ``metadata_commands``  create-md, dump-md, apply-al, wipe-md, show-gi, get-gi
"""

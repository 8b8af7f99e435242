"""Text and values: everything an administrator writes, and everything shown to one. No sockets.

* ``resolve``         the door: a drbd.conf in, a ``Configuration`` of this host's resources out
* ``res_lexer`` ``res_stream`` ``res_parser`` ``res_hosts`` ``res_options``   the .res grammar
* ``res_model``       its syntax tree
* ``options``         the one table of options; ``options_page`` prints it as documentation
* ``res_files``       main file, include, standard input
* ``res_checks``      what must be unique or agree within a configuration
* ``res_merge``       inheritance: what a host's volumes are, which setting counts
* ``res_dump``        a configuration as text again
* ``unsupported``     what loads but can't be served yet
* ``settings`` ``addresses``   the TOML file beside the configuration, and where to listen
* ``proc_text`` ``status_text`` ``status_json`` ``state_words``   what a running node looks like
* ``messages`` ``status_values``   requests and replies of the control socket
"""

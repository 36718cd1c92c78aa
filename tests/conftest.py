"""Every run of the tests draws the same examples, and Ctrl-C does what it does in a terminal."""

import signal

from hypothesis import settings

settings.register_profile("same_every_time", derandomize=True, database=None, deadline=None)
settings.load_profile("same_every_time")

# In the background of a script it is ignored, which every process that is started from there inherits.
signal.signal(signal.SIGINT, signal.default_int_handler)

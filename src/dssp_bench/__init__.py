"""Compare ways of synchronising distributed training through one parameter server.

The map, from the bottom up: `core` is the parameter server, pure; `paradigms` holds one file per paradigm; `worker`
computes gradients; `engines` carry pushes and releases in virtual time or between real processes; `tasks` are networks
and data; `records` is what a run leaves on disk; `analysis` turns records into numbers and `plots` numbers into
figures; `experiment` runs one experiment; `cli` is the command line.
"""

__version__ = "0.1.0"

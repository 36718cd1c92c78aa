"""What carries pushes and releases, and owns the clock.

- `engine`: the contract, with the limits at which a run ends
- `serve`: the loop that all engines share; `observer`: who watches it, `status`: a page of numbers about it
- `termination`: Ctrl-C, a closed terminal and `kill`, as interruptions that wait where they must
- `options`: what a user may choose of each engine
- `layout`: who the workers are and what surrounds them
- `checkpoints`: a run between two events, from which it can go on
- `compute_time`: how long iterations take in virtual time
- `simulated`: virtual time, with or without gradients
- `local`: real processes on one machine; `cluster`: the same, with workers on others
- `delivery`: each push once and in order, over whatever loses, repeats or delays messages
- `replay`: a recorded run, fed back through the core
"""

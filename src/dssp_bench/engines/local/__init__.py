"""Real processes on one machine: a server, one process per worker, and an evaluator.

- `memory`: tensors that processes share, on the CPU without names, on CUDA by handles
- `channel`: a socket pair with whole messages
- `processes`: what the server, a worker and the evaluator do
- `engine`: the engine that runs in the server's process
- `fork_server`: the process that forks the others
- `launch`: the driver's side: starts the processes, passes on what they say, cleans up

Nothing has a name that could be left behind: memory is anonymous, sockets come in pairs, no port is opened, and no lock
or queue is shared. The server is the only one who writes weights; a worker writes its own slot, and only between its
release and its push. So a worker that dies can never leave half an update.
"""

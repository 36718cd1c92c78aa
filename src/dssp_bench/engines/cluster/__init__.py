"""Workers on other machines: the server runs as on one machine, and a courier stands in for each worker elsewhere.

- `wire`: one connection, whose ends have shown that they know the run's key, and the frames on it
- `courier`: carries one worker's messages between the server's process and the worker's connection of the moment
- `gateway`: the one port on which workers come in
- `client`: the worker's side, which comes back by itself after a cut
- `shard`: one part of the weights in a process of its own
- `envoy`: the same on another machine, and who stands in for it here
- `launch`: a local run whose workers are elsewhere
- `on_ray`: Ray, which starts workers, says which have died, and ends them; nothing else goes through it
- `which_ray`: which Ray cluster that is, if nobody names one
"""

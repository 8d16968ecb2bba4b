"""Content by CID: what this node holds, where else it may lie, and the one verified way to read it."""

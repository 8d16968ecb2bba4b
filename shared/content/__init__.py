"""Content addressing without I/O: identifiers (cid), nodes of the DAG (dagpb), files (unixfs), archives (car)."""

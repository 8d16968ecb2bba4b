"""`python -m poi.testnet.kubo REPO --rpc PORT --swarm PORT`."""

from __future__ import annotations

import typer

from poi.testnet.kubo.daemon import main

if __name__ == "__main__":
    typer.run(main)

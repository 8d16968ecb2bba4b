"""`python -m poi` is `poi`."""

from __future__ import annotations

from poi.cli import main

if __name__ == "__main__":
    main()

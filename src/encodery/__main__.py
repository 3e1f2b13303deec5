"""`python -m encodery` is the command `encodery`."""

from __future__ import annotations

from encodery.cli.__main__ import main

if __name__ == "__main__":
    main()

"""`python -m solo_gps`: the command `solo-gps`, for launchers that start modules (torchrun)."""

from solo_gps.commands.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""Entry point of the ``replblk`` command."""


def main() -> int:
    """Run the command line; replaced by the click application."""
    raise SystemExit("not built yet")

"""The ``nas-optuna`` command, which is ``python -m nas_optuna``, too."""

import sys


def main() -> int:
    """Run the command; Ctrl-C ends it in one line also while its modules are imported."""
    try:
        from nas_optuna.cli import main as command
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return command()


if __name__ == "__main__":
    sys.exit(main())

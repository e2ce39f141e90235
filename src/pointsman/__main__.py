"""``python -m pointsman`` is the ``pointsman`` command."""

from pointsman.cli.main import run

if __name__ == "__main__":
    run()

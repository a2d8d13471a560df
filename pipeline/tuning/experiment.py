"""Runs DVC's command line without its warnings that outputs are missing which the experiment is about to make.

Before an experiment runs, DVC checks the outputs of dvc.lock out. In a fresh clone there is no dvc.lock, and it warns of each.
"""

import logging
import sys

CHECKOUT = "dvc_data.index.checkout"  # the module that warns
NOT_MADE_YET = "No file hash info found for '%s'. It won't be created."


def is_news(record: logging.LogRecord) -> bool:
    """Return whether a record says anything but that an output is not made yet."""
    return record.msg != NOT_MADE_YET


def main() -> None:
    """Run `dvc exp run` with the arguments of this program."""
    from dvc.cli import main as dvc

    logging.getLogger(CHECKOUT).addFilter(is_news)
    raise SystemExit(dvc(["exp", "run", *sys.argv[1:]]))


if __name__ == "__main__":
    main()

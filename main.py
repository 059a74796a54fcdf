"""`python main.py` is `ams up`, with the same flags."""

import sys

from ams_cli.main import main

if __name__ == "__main__":
    sys.exit(main(["up", *sys.argv[1:]]))

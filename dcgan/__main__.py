"""`python -m dcgan` is `dcgan-train`; alone it says what that can do, since it would train for half an hour."""

import os
import sys

from .cli import main

alone = len(sys.argv) == 1 and "WORLD_SIZE" not in os.environ  # torchrun sets it
main(["--help"] if alone else None, prog_name="dcgan-train")

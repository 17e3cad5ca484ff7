"""`python -m dcgan` is `dcgan-train`."""

from .cli import main

main(prog_name="dcgan-train")

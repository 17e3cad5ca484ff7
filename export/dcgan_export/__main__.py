"""`python -m dcgan_export` is `dcgan-export`."""

from .cli import main

main(prog_name="dcgan-export")

"""`python -m dcgan_infer` is `dcgan-infer`."""

from .cli import main

main(prog_name="dcgan-infer")

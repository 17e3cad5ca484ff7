"""Turns a checkpoint into an artifact, proves the artifact equal to the checkpoint, and only then publishes it.

`publish.publish` is the whole way in one call; `formats.FORMATS` is what it can write; `parity.compare` is the proof.
"""

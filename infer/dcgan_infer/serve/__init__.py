"""A server of one generator over HTTP: pictures, and the Open Inference Protocol. Needs the extra `serve`."""

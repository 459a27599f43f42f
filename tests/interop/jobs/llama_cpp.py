"""Runs inside llama.cpp's environment: its own server, on the loopback address alone, until its
standard input closes. Prints its address first."""

from __future__ import annotations

import sys

import xllamacpp


def main(model: str) -> None:
    """Serve the model of that GGUF file."""
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.hostnames, settings.port = ["127.0.0.1"], 0  # any port that is free
    settings.n_ctx, settings.n_parallel, settings.warmup = 4096, 2, False
    settings.cpuparams.n_threads = 1
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])

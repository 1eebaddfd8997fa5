"""Another side of `serve_peers.py`, LitServe: python serve_peers_lit.py PORT BUNDLE"""

from __future__ import annotations

import sys
from typing import Any

import litserve
from serve_peers_side import BATCH, WAIT_S, Model, answer


class Images(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._model = Model(sys.argv[2])

    def decode_request(self, request):  # without a type it is the body as JSON
        return int(request["seed"])

    def batch(self, inputs: list[int]) -> list[int]:
        return inputs

    def predict(self, seeds: list[int]) -> list[bytes]:
        return self._model.pictures(seeds)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> dict[str, Any]:
        return answer(output)


if __name__ == "__main__":
    api = Images(max_batch_size=BATCH, batch_timeout=WAIT_S, api_path="/v1/images/generations")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning"
    )

"""Another side of `serve_peers.py`, plain Ray Serve: python serve_peers_side.py PORT BUNDLE

All run the bundle's network on one thread in batches of up to 32, write PNGs with distgen's own
encoder, and answer in the shape of the OpenAI Images API: what differs is who carries the request.
"""

from __future__ import annotations

import base64
import sys
import time
from typing import Any

import numpy as np
import torch

from distgen.core.storage import locate
from distgen.metrics.grid import to_uint8_nhwc
from distgen.registry.bundle import load_bundle
from distgen.serving.making.encode import encode_png
from distgen.serving.making.engine import network_of

BATCH = 32
WAIT_S = 0.005


class Model:
    def __init__(self, bundle: str) -> None:
        torch.set_num_threads(1)
        loaded = load_bundle(locate(bundle))
        loaded.model.to(memory_format=torch.channels_last)
        self._network = network_of(loaded)

    @torch.inference_mode()
    def pictures(self, seeds: list[int]) -> list[bytes]:
        dim = self._network.latent_dim
        latents = [np.random.default_rng(seed).standard_normal(dim, np.float32) for seed in seeds]
        labels_n = torch.tensor([seed % self._network.num_classes for seed in seeds])
        images = self._network.sample(torch.from_numpy(np.stack(latents)), labels_n)
        return encode_png(to_uint8_nhwc(images))


def answer(png: bytes) -> dict[str, Any]:
    return {"created": 0, "data": [{"b64_json": base64.b64encode(png).decode()}]}


def plain(port: int, bundle: str) -> None:
    """What a tutorial of Ray Serve would lead to."""
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    @serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1})
    class Images:
        def __init__(self) -> None:
            self._model = Model(bundle)

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)
        async def make(self, seeds: list[int]) -> list[bytes]:
            return self._model.pictures(seeds)

        async def __call__(self, request: Request) -> JSONResponse:
            # Not a mapping: of that Serve makes an answer without a length, in parts.
            return JSONResponse(answer(await self.make((await request.json())["seed"])))

    ray.init(address="local", include_dashboard=False, num_cpus=2)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Images.bind())
    while True:
        time.sleep(60)


if __name__ == "__main__":
    plain(int(sys.argv[1]), sys.argv[2])

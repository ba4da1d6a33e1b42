"""Ask a server with KServe's own client and print its answers as JSON; runs in the environment of `kserve_models`.

.venv-kserve/bin/python tests/builders/kserve_client.py http://127.0.0.1:8080 portrait.jpg
"""

import asyncio
import base64
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

KEY, WRONG = {"x-api-key": "open"}, {"x-api-key": "wrong"}
TOO_MUCH = b"x" * 4_000_000


async def told(asked: Awaitable) -> Any:
    """Return a request's value, or the text of the exception and the error message of the answer."""
    try:
        return await asked
    except httpx.HTTPStatusError as error:
        return [str(error), error.response.json()["error"]]


def rows(photo: bytes) -> dict:
    return {"instances": [{"image_bytes": {"b64": base64.b64encode(photo).decode()}}]}


def tensor(photo: bytes, shape: tuple[int, ...] = (1,)) -> InferRequest:
    tensor_input = InferInput("image_bytes", list(shape), "BYTES")
    tensor_input.set_data_from_numpy(np.full(shape, photo, object), binary_data=True)
    return InferRequest("portraits", [tensor_input])


async def ask(url: str, photo: bytes, protocol: str) -> dict[str, Any]:
    """Return the answers by question."""
    async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:

        async def infer(data: Any, model: str = "portraits", key: dict = KEY) -> Any:
            answer = await told(client.infer(url, data, model, headers=dict(key)))
            if not isinstance(answer, list):
                answer = answer["predictions"][0]["mean"] if protocol == "v1" else answer.outputs[0].data[0]
            return answer

        make = rows if protocol == "v1" else tensor
        return {
            "live": await told(client.is_server_live(url)),
            "ready": await told(client.is_server_ready(url)) if protocol == "v2" else None,
            "model": await told(client.is_model_ready(url, "portraits", headers=KEY)),
            "other model": await told(client.is_model_ready(url, "other", headers=KEY)),
            "score": await infer(make(photo)),
            "of other": await infer(make(photo), "other"),
            "misshapen": await infer(tensor(photo, (1, 2)) if protocol == "v2" else {"instances": [{"photo": 1}]}),
            "stranger": await infer(make(photo), key=WRONG),
            "too large": await infer(make(photo + TOO_MUCH)),
        }


async def main(url: str, file: str) -> None:
    """Print the answers by protocol."""
    photo = Path(file).read_bytes()
    print(json.dumps({protocol: await ask(url, photo, protocol) for protocol in ("v1", "v2")}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""The engines that must keep the contract. Another SGLang-compatible server is one entry more."""

import aiohttp
import pytest
import pytest_asyncio


class Api:
    """Raw HTTP, so that the tests see bodies and status codes."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def post(self, path: str, body=None, timeout_s: float = 60.0):
        """(status, parsed body or text)."""
        async with self._session.post(
            self.url + path, json=body, timeout=aiohttp.ClientTimeout(total=timeout_s)
        ) as response:
            return response.status, await _content(response)

    async def get(self, path: str, timeout_s: float = 60.0):
        async with self._session.get(
            self.url + path, timeout=aiohttp.ClientTimeout(total=timeout_s)
        ) as response:
            return response.status, await _content(response)

    async def ok(self, path: str, body=None, timeout_s: float = 60.0):
        status, content = await self.post(path, body, timeout_s)
        assert status == 200, (path, status, content)
        return content

    async def generate(self, body: dict, banned: list[int] | None = None, **params):
        sampling = {"temperature": 1.0, "max_new_tokens": 8, **params}
        if banned:
            sampling["logit_bias"] = {str(token): -1e9 for token in banned}
        return await self.ok(
            "/generate", {"return_logprob": True, "sampling_params": sampling, **body}
        )


async def _content(response: aiohttp.ClientResponse):
    if response.content_type == "application/json":
        return await response.json()
    return await response.text()


@pytest.fixture(scope="session", params=["embedded_url"])
def engine_url(request) -> str:
    return request.getfixturevalue(request.param)


@pytest_asyncio.fixture
async def api(engine_url, checkpoint):
    """An engine that serves the first checkpoint, not paused, with no session open."""
    async with aiohttp.ClientSession() as session:
        api = Api(engine_url, session)
        yield api
        await api.post("/abort_request", {"abort_all": True})
        await api.post("/end_weight_update", {})
        await api.ok("/continue_generation", {})
        await api.ok("/update_weights_from_disk", {
            "model_path": str(checkpoint), "weight_version": "default",
        })  # fmt: skip

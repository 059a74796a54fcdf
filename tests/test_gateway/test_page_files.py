"""The page's files as the gateway serves them: policy, caching, compression, and no address of elsewhere."""

import gzip
import re
import zlib

from ams_common.errors import ERRORS
from ams_gateway.page.assets import assets
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import FakeRegistry


async def get(running: Running, path: str, **headers: str):
    options = {"headers": headers, "auto_decompress": False} if headers else {}
    async with running.client.get(running.url + path, **options) as response:
        return response.status, response.headers, await response.read()


async def test_the_index_and_what_it_names(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    status, headers, body = await get(running, "/")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "text/html; charset=utf-8", "no-cache")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    named = re.findall(r'(?:src|href)="(page/[^"]+)"', body.decode())
    assert len(named) > 5
    for path in named:
        status, headers, body = await get(running, f"/{path}")
        assert status == 200, path
        assert "immutable" in headers["Cache-Control"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Type"] in ("text/javascript; charset=utf-8", "text/css; charset=utf-8")


async def test_a_browser_asks_again_only_for_what_changed(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    _, headers, _ = await get(running, "/")
    status, again, body = await get(running, "/", **{"If-None-Match": f'"x", {headers["ETag"]}'})
    assert (status, body, again["ETag"]) == (304, b"", headers["ETag"])
    assert (await get(running, "/", **{"If-None-Match": '"other"'}))[0] == 200


async def test_it_is_compressed_beforehand(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    path = f"/page/{assets().version}/app.js"
    status, headers, packed = await get(running, path, **{"Accept-Encoding": "gzip"})
    assert (status, headers["Content-Encoding"], headers["Vary"]) == (200, "gzip", "Accept-Encoding")
    plain = zlib.decompress(packed, 16 + zlib.MAX_WBITS)
    assert len(packed) < len(plain) / 2
    _, headers, body = await get(running, path, **{"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in headers
    assert body == plain == gzip.decompress(packed)


async def test_other_versions_get_what_there_is_and_nothing_is_kept(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    status, headers, _ = await get(running, "/page/ffff/app.js")
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    for path in ("/page/x/none.js", "/page/x/index.html", "/page/x/..%2Fassets.py", "/page/a/b/app.js", "/page/"):
        assert (await get(running, path))[0] == 404, path
    running.log.clear()
    await get(running, "/page/ffff/app.js")
    await running.gateway.close()
    assert [line for line in running.log if line["code"] == 200] == []


async def test_meanings_of_errors(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    async with running.client.get(f"{running.url}/page/{assets().version}/errors.json") as response:
        meanings = await response.json()
    assert set(meanings) == set(ERRORS)
    assert meanings["timeout"] == "The answer took longer than allowed and was cancelled."


def test_nothing_is_fetched_from_elsewhere_and_nothing_is_markup() -> None:
    for name, file in assets().files.items():
        text = file.body.decode()
        found = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert found == set(), name
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            ' style="',
        ):
            assert word not in text, (name, word)
        assert re.search(r"""(?:href|src|from|import)\s*[=(]?\s*["']/""", text) is None, name

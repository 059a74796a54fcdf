"""A hub that answers what no hub should: names, sizes, redirects, encodings and bodies, one mixture for each seed."""

import asyncio
import gzip
import hashlib
import json
import random
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from aiohttp import web

FILES = {
    "config.json": b'{"architectures":["LlamaForCausalLM"]}',
    "model.safetensors": (8).to_bytes(8, "little") + b"{}      ",
    "tokenizer.json": b"{}",
}
COMMIT = "a" * 40
# Each is formatted with the folder that nobody may touch.
COMMITS = (
    *(
        "../../../victim",
        "{victim}",
        "..",
        ".",
        "",
        "/",
        "a" * 39,
        "a" * 41,
        "A" * 40,
        "a" * 40 + "\n",
        "a" * 40 + "/..",
    ),
    *(
        "%2e%2e%2f%2e%2e",
        "..\\..\\victim",
        "a\0b",
        "\ud800" * 40,
        "ａ" * 40,
        "a" * 5000,
        None,
        7,
        ["a"],
        {"a": 1},
        True,
    ),
)
NAMES = (
    *("../../../../victim/x.safetensors", "{victim}/x.safetensors", "a/../../../../victim/x.json", "..\\..\\x.json"),
    *("config.json/x.json", ".journal", ".input/wheel/x.json", "manifest.json", "model.safetensors.part", "x\0.json"),
    *("\ud800.json", "x" * 300 + ".json", "x" * 100_000 + ".json"),
    *("\x1b[31mx.json", "", ".", "./x.json", "a//x.json", "C:\\x.json"),
    *("additional_chat_templates/../../../../victim/x.jinja", "additional_chat_templates/.json", "nul.json "),
    *("x\n.json", None, 7),
)  # fmt: skip
SIZES = (-1, -(1 << 70), 1 << 40, 1 << 62, 1 << 70, "7", 1.5, None, True, [], 0, 1)
STATUSES = (201, 204, 206, 300, 304, 400, 401, 403, 404, 416, 418, 429, 451, 500, 503, 599)
LISTINGS = (
    b"", b"null", b"[]", b"7", b"<html>no</html>", b'{"sha":"\xff"}', b'{"sha":' + b"[" * 60_000, b"[" * 5_000_000,
    b'{"sha":"' + COMMIT.encode() + b'"}', b'{"siblings":[],"sha":null}', b'{"a":1' , b'{"a":' * 100_000,
    b'{"sha":1e999}',
    b'{"siblings":[' + b"{}," * 400_000 + b"{}]}", gzip.compress(b"x" * (64 << 20)),
)  # fmt: skip
LOCATIONS = (
    "file:///etc/passwd", "/loop", "//", "http://[", "http://127.0.0.1:1/x", "ftp://x/y", "http://user:pass@127.0.0.1:1/",
    "../../../..", "javascript:1", "http://127.0.0.1:99999/", "", "http://xn--/", "data:text/plain,x",
)  # fmt: skip
HEADERS = (
    {"Retry-After": "1e999"}, {"Retry-After": "-5"}, {"Retry-After": "9" * 500}, {"Retry-After": "Thu, 99 Foo 2026"},
    {"Content-Encoding": "gzip"}, {"Content-Encoding": "br"}, {"Content-Encoding": "nonsense"},
    {"Content-Encoding": "deflate"},
    {"X-Linked-Size": "abc"}, {"X-Linked-Size": "-3"}, {"X-Linked-Size": "9" * 5000}, {"X-Linked-Etag": '"../../x"'},
    {"ETag": "x" * 8000}, {"Content-Range": "bytes 5-9/3"}, {"Content-Range": "bytes x"},
    {"X-Error-Code": "GatedRepo"},
    {"X-Error-Message": "A" * 7000}, {"X-Repo-Commit": "../../x"}, {"X-Xet-Hash": "../x", "X-Xet-Refresh-Route": "file:///x"},

    {"Link": '<file:///x>; rel="xet-auth"', "X-Xet-Hash": "0" * 64}, {"Content-Type": "text/html; charset=nonsense"},
)  # fmt: skip
BODIES = ("endless", "drip", "cut", "other", "empty", "bomb")


class HostileHub:
    """One hub on a free port of loopback; `seed` says what it does wrong, `victim` is where it wants to write."""

    def __init__(self, seed: int, victim: str) -> None:
        self._random = random.Random(seed)
        self._victim = victim
        self._wrong = self._random.sample(
            ("commit", "name", "name", "size", "status", "listing", "location", "header", "body", "index"),
            self._random.choice((1, 1, 2, 3)),
        )
        self._choices: dict[str, Any] = {
            "commit": self._pick(COMMITS),
            "name": self._pick(NAMES),
            "size": self._pick(SIZES),
            "status": self._pick(STATUSES),
            "listing": self._pick((*LISTINGS, "endless", "drip")),
            "location": self._pick(LOCATIONS),
            "header": self._pick(HEADERS),
            "body": self._pick(BODIES),
            "index": self._pick(NAMES),
        }
        self._at = self._random.choice(("listing", "file", "both"))

    def _pick(self, values: Sequence[Any]) -> Any:
        value = self._random.choice(values)
        return value.replace("{victim}", self._victim) if isinstance(value, str) else value

    def __str__(self) -> str:
        return repr([(wrong, str(self._choices[wrong])[:60]) for wrong in self._wrong])

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _open(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/api/models/{rest:.*}", self._listing)
        app.router.add_route("*", "/{rest:.*}", self._file)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _close(self) -> None:
        await self._runner.cleanup()
        await asyncio.sleep(0.02)  # the loop has to come round for sockets to close

    async def _listing(self, request: web.Request) -> web.StreamResponse:
        if "listing" in self._wrong:
            content = self._choices["listing"]
            if isinstance(content, str):
                return await self._stream(request, content, b"{", {})
            encoded = {"Content-Encoding": "gzip"} if content[:2] == b"\x1f\x8b" else {}
            return web.Response(body=content, headers=encoded)
        return await self._answer(request, json.dumps(self._info()).encode(), {}, "listing")

    def _info(self) -> dict[str, Any]:
        siblings = [self._sibling(name, content) for name, content in FILES.items()]
        if "name" in self._wrong:
            siblings.append({**self._sibling("x", b"pwned"), "rfilename": self._choices["name"]})
        if "index" in self._wrong:
            siblings.append(self._sibling("model.safetensors.index.json", self._index()))
            siblings.append({**self._sibling("x", b"pwned"), "rfilename": self._choices["index"]})
        if "size" in self._wrong:
            sibling = self._random.choice(siblings)
            sibling.get("lfs", sibling)["size"] = self._choices["size"]
        return {"sha": self._choices["commit"] if "commit" in self._wrong else COMMIT, "siblings": siblings}

    def _index(self) -> bytes:
        return json.dumps({"weight_map": {"a": self._choices["index"]}}).encode()

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        if name.endswith(".safetensors"):
            return {"rfilename": name, "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}}
        return {"rfilename": name, "size": len(content), "blobId": _blob_id(content)}

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        content = self._index() if name.endswith(".index.json") else FILES.get(name, b"pwned")
        etag = hashlib.sha256(content).hexdigest() if name.endswith(".safetensors") else _blob_id(content)
        return await self._answer(request, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, "file")

    async def _answer(
        self, request: web.Request, content: bytes, headers: dict[str, str], what: str
    ) -> web.StreamResponse:
        wrong = self._wrong if self._at in (what, "both") else []
        if "header" in wrong:
            headers = {**headers, **self._choices["header"]}
        if "location" in wrong:
            return web.Response(status=302, headers={**headers, "Location": self._choices["location"]})
        if "status" in wrong:
            return web.Response(status=self._choices["status"], headers=headers)
        if "body" in wrong and request.method == "GET":
            return await self._stream(request, self._choices["body"], content, headers)
        if "Content-Encoding" in headers:  # as it is: aiohttp would not send a body that isn't encoded so
            return await self._stream(request, "plain", content, headers)
        return web.Response(body=content, headers=headers)

    async def _stream(
        self, request: web.Request, kind: str, content: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        if kind == "bomb":
            content, headers = gzip.compress(bytes(64 << 20)), {**headers, "Content-Encoding": "gzip"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        with suppress(ConnectionError, asyncio.CancelledError):
            if kind in ("plain", "bomb"):
                await response.write(content)
            elif kind == "other":
                await response.write(bytes(byte ^ 0xFF for byte in content))
            elif kind == "cut" and request.transport is not None:
                await response.write(content[:3])
                request.transport.close()
            while kind in ("endless", "drip"):
                await response.write(b" " * (1 if kind == "drip" else 1 << 16))
                await asyncio.sleep(0.1 if kind == "drip" else 0)
        return response


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

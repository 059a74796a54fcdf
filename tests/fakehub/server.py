"""A Hugging Face hub on loopback, real enough for huggingface_hub: listings, files, LFS on a second origin, faults.

    with FakeHub() as hub:
        hub.add(Repository("acme/tiny")).commit({"config.json": b"{}"})
        hub.fail(Fault("cut", "model.safetensors", after=1000))
        ...  # HF_ENDPOINT=hub.url
        hub.requests  # what was asked, with ranges and bytes sent

It runs in a thread with its own loop. `python -m fakehub FOLDER` serves a folder of checkpoints.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote

from aiohttp import web
from fakehub.faults import Fault, Faults
from fakehub.repository import PIECE_BYTES, File, Repository

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Asked:
    """One request. `where` is `api` or the file's path, `storage` whether it went to the LFS origin."""

    method: str
    where: str
    storage: bool
    token: str | None
    range: str | None
    status: int = 0
    sent: int = 0  # bytes of body
    start: int = 0  # offset of the first byte


@dataclass
class FakeHub:
    """The hub; change its attributes from the test's thread, it reads them at each request.

    `tokens` are those it knows, `allowed` (pairs of token and model) who may read gated ones. `xet` maps a file's
    sha256 to its xet hash, served from the content store at `xet_store`.
    """

    host: str = "127.0.0.1"
    port: int = 0
    public_url: str | None = None  # how clients reach it, if not by host and port
    tokens: set[str] = field(default_factory=set)
    allowed: set[tuple[str, str]] = field(default_factory=set)
    faults: Faults = field(default_factory=Faults)
    requests: list[Asked] = field(default_factory=list)
    repositories: dict[str, Repository] = field(default_factory=dict)
    xet: dict[str, str] = field(default_factory=dict)
    xet_store: str = ""
    ignore_blobs: bool = False  # like mirrors that list names only

    def add(self, repository: Repository) -> Repository:
        self.repositories[repository.name] = repository
        return repository

    def fail(self, fault: Fault) -> Fault:
        return self.faults.add(fault)

    def release(self) -> None:
        """Let all stalled bodies go on."""
        self._loop.call_soon_threadsafe(self._released.set)

    def downloads(self, path: str) -> list[Asked]:
        """The requests that sent bytes of a file."""
        return [asked for asked in self.requests if asked.where == path and asked.method == "GET" and asked.sent]

    def start(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fakehub", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    async def _open(self) -> None:
        self._released = asyncio.Event()
        app = web.Application(middlewares=[self._log])
        app.add_routes(
            [
                web.get("/api/models/{owner}/{name}", self._info),
                web.get("/api/models/{owner}/{name}/revision/{revision:.+}", self._info),
                web.get("/api/models/{owner}/{name}/tree/{revision}", self._tree),
                web.get("/api/models/{owner}/{name}/refs", self._refs),
                web.get("/api/models/{owner}/{name}/xet-read-token/{revision}", self._xet_token),
                web.get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve),  # HEAD too
                web.get("/storage/{owner}/{name}/{commit}/{path:.+}", self._storage),
                web.post("/_faults", self._add_fault),
                web.delete("/_faults", self._clear_faults),
                web.get("/_requests", self._list_requests),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        storage = web.TCPSite(self._runner, self.host, 0 if self.port == 0 else self.port + 1)
        await storage.start()
        self.port, storage_port = (address[1] for address in self._runner.addresses)
        self.url = self.public_url or f"http://{self.host}:{self.port}"
        stem, _, _ = self.url.rpartition(":")
        self.storage_url = f"{stem}:{storage_port}"
        self._storage_port = storage_port

    async def _close(self) -> None:
        self._released.set()
        await self._runner.cleanup()

    @web.middleware
    async def _log(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        known = "api" if request.path.startswith("/api/models/") else request.path
        where = unquote(request.match_info.get("path", known))
        authorization = request.headers.get("Authorization", "")
        asked = Asked(
            request.method,
            where,
            request.path.startswith("/storage/"),
            authorization.removeprefix("Bearer ") or None,
            request.headers.get("Range"),
        )
        request["asked"] = asked
        if request.path.startswith("/_"):
            return await handler(request)
        self.requests.append(asked)
        fault = None if request.path.startswith("/storage/") else self.faults.status(where, request.method)
        try:
            response = _refusal(fault) if fault is not None else await handler(request)
        except web.HTTPException as refusal:
            asked.status = refusal.status
            raise
        asked.status = response.status
        return response

    # listings

    async def _info(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._find(request, request.match_info.get("revision", "main"), listing=True)
        blobs = request.query.get("blobs", "").lower() == "true" and not self.ignore_blobs
        body = {
            "_id": commit[:24],
            "id": repository.name,
            "modelId": repository.name,
            "sha": commit,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [_sibling(file, blobs) for file in repository.commits[commit].values()],
        }
        return web.json_response(body)

    async def _tree(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._find(request, unquote(request.match_info["revision"]), listing=True)
        entries: list[dict[str, Any]] = []
        for file in repository.commits[commit].values():
            entry: dict[str, Any] = {"type": "file", "oid": file.blob_id, "size": file.size, "path": file.path}
            if file.is_lfs:
                entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 135}
            entries.append(entry)
        return web.json_response(entries)

    async def _refs(self, request: web.Request) -> web.StreamResponse:
        repository, _ = self._find(request, "main", listing=True)
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repository.revisions.items()]
        return web.json_response({"branches": branches, "tags": [], "converts": []})

    # files

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._find(request, unquote(request.match_info["revision"]), listing=False)
        path = unquote(request.match_info["path"])
        if (file := repository.commits[commit].get(path)) is None:
            raise _error(web.HTTPNotFound, "EntryNotFound", "Entry not found", commit)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not file.is_lfs:
            return await self._send(request, file, {**headers, "ETag": f'"{file.etag}"'})
        signed = f"{path}?X-Signature=signed-{file.etag[:8]}"
        headers |= {
            "X-Linked-Etag": f'"{file.etag}"',
            "X-Linked-Size": str(file.size),
            "Location": f"{self.storage_url}/storage/{repository.name}/{commit}/{signed}",
        }
        if (xet := self.xet.get(file.sha256)) is not None:
            headers["X-Xet-Hash"] = xet
            headers["X-Xet-Refresh-Route"] = f"{self.url}/api/models/{repository.name}/xet-read-token/{commit}"
        return web.Response(status=302, headers=headers)

    async def _storage(self, request: web.Request) -> web.StreamResponse:
        info = request.match_info
        file = self.repositories[f"{info['owner']}/{info['name']}"].commits[info["commit"]][unquote(info["path"])]
        if not request.query.get("X-Signature", "").startswith("signed-") or request.url.port != self._storage_port:
            raise web.HTTPForbidden
        if "Authorization" in request.headers:  # as S3 answers two kinds of authentication
            raise web.HTTPBadRequest(text="only one auth mechanism allowed")
        return await self._send(request, file, {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"})

    async def _xet_token(self, request: web.Request) -> web.StreamResponse:
        self._find(request, request.match_info["revision"], listing=False)
        headers = {
            "X-Xet-Cas-Url": self.xet_store,
            "X-Xet-Access-Token": "xet-token",
            "X-Xet-Token-Expiration": "4102444800",
        }
        return web.json_response({"casUrl": self.xet_store}, headers=headers)

    async def _send(self, request: web.Request, file: File, headers: dict[str, str]) -> web.StreamResponse:
        asked: Asked = request["asked"]
        fault = self.faults.body(file.path, request.method) or Fault("slow")
        size = file.content.size
        start = 0 if fault.kind == "no-ranges" else (request.http_range.start or 0)
        if start >= size > 0:
            raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
        asked.start = start
        if start:
            headers = {**headers, "Content-Range": f"bytes {start}-{size - 1}/{size}"}
        extra = fault.after if fault.kind == "too-long" else 0
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = size - start + extra
        asked.status = response.status
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        with suppress(ConnectionResetError, asyncio.CancelledError):  # the client left
            await self._body(request, response, file, fault, start)
        return response

    async def _body(
        self, request: web.Request, response: web.StreamResponse, file: File, fault: Fault, start: int
    ) -> None:
        asked: Asked = request["asked"]
        stop = file.content.size
        if fault.kind in ("cut", "stall"):
            stop = min(stop, start + fault.after)
        step = max(1, min(PIECE_BYTES, fault.rate // 20)) if fault.kind == "slow" and fault.rate else PIECE_BYTES
        for offset in range(start, stop, step):
            piece = file.content.read(offset, min(offset + step, stop))
            if fault.kind == "corrupt" and offset <= fault.after < offset + len(piece):
                at = fault.after - offset
                piece = piece[:at] + bytes([piece[at] ^ 0xFF]) + piece[at + 1 :]
            await response.write(piece)
            asked.sent += len(piece)
            if fault.kind == "slow" and fault.rate:
                await asyncio.sleep(step / fault.rate)
        if fault.kind == "too-long":
            await response.write(bytes(fault.after))
        if fault.kind == "stall":
            await self._released.wait()
        if fault.kind in ("cut", "stall") and request.transport is not None:
            request.transport.close()

    # who may

    def _find(self, request: web.Request, revision: str, *, listing: bool) -> tuple[Repository, str]:
        """The model and commit that a request may see; raises the hub's own answers."""
        info = request.match_info
        name = f"{info['owner']}/{info['name']}"
        token: str | None = request["asked"].token
        if token is not None and token not in self.tokens:
            raise _error(web.HTTPUnauthorized, None, "Invalid credentials in Authorization header")
        repository = self.repositories.get(name)
        if repository is None or (repository.private and token is None):
            if token is None:  # the hub doesn't tell whether it is there
                raise _error(web.HTTPUnauthorized, None, "Invalid username or password.")
            raise _error(web.HTTPNotFound, "RepoNotFound", "Repository not found")
        if (commit := repository.resolve(unquote(revision))) is None:
            raise _error(web.HTTPNotFound, "RevisionNotFound", f"Invalid rev id: {revision}")
        if repository.gated and not listing:
            if token is None:
                text = f"Access to model {name} is restricted. You must have access to it and be authenticated."
                raise _error(web.HTTPUnauthorized, "GatedRepo", text, commit)
            if (token, name) not in self.allowed:
                text = f"Access to model {name} is restricted and you are not in the authorized list."
                raise _error(web.HTTPForbidden, "GatedRepo", text, commit)
        return repository, commit

    # remote control, for a hub in another process

    async def _add_fault(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.fail(Fault(**await request.json())).to_dict())

    async def _clear_faults(self, request: web.Request) -> web.StreamResponse:
        self.faults.clear()
        return web.json_response({})

    async def _list_requests(self, request: web.Request) -> web.StreamResponse:
        return web.json_response([vars(asked) for asked in self.requests])


def _sibling(file: File, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": file.path}
    entry: dict[str, Any] = {"rfilename": file.path, "size": file.size, "blobId": file.blob_id}
    if file.is_lfs:
        entry["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 135}
    return entry


def _refusal(fault: Fault) -> web.Response:
    headers = {}
    if fault.retry_after is not None:
        headers["Retry-After"] = str(int(fault.retry_after))
    text = "Too Many Requests" if fault.status == 429 else "Internal Error"
    return web.json_response({"error": text}, status=fault.status, headers=headers)


def _error(kind: type[web.HTTPException], code: str | None, text: str, commit: str | None = None) -> web.HTTPException:
    headers = {"X-Error-Message": text}
    if code is not None:
        headers["X-Error-Code"] = code
    if commit is not None:
        headers["X-Repo-Commit"] = commit
    return kind(headers=headers, text=json.dumps({"error": text}), content_type="application/json")

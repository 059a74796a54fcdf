"""The page at `/` and its files."""

from aiohttp import web
from ams_common.errors import ApiError

from ams_gateway.front.call import Call
from ams_gateway.front.responses import accepts_gzip
from ams_gateway.page.assets import INDEX, Asset, assets
from ams_gateway.routes.routing import Services

_FOR_GOOD = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def get_page(services: Services, call: Call) -> web.Response:
    return _response(call, assets().files[INDEX], _ASK_AGAIN)


async def get_page_file(services: Services, call: Call) -> web.Response:
    """A file below the folder of its version. Another version's name gets this one's file, which isn't kept then."""
    version, _, name = call.name.rpartition("/")
    file = assets().files.get(name)
    if file is None or name == INDEX or "/" in version:
        raise ApiError("not_found", "There is no such file of the page.")
    return _response(call, file, _FOR_GOOD if version == assets().version else "no-store")


def _response(call: Call, asset: Asset, caching: str) -> web.Response:
    request = call.request
    headers = {**_HEADERS, "ETag": asset.tag, "Cache-Control": caching, "Vary": "Accept-Encoding"}
    known = [tag.strip() for tag in request.headers.get("If-None-Match", "").split(",")]
    if asset.tag in known or asset.tag.removeprefix("W/") in known:
        return web.Response(status=304, headers=headers)
    body = asset.body
    if accepts_gzip(request.headers.get("Accept-Encoding", "")):
        headers["Content-Encoding"], body = "gzip", asset.gzipped
    return web.Response(body=body, content_type=asset.content_type, charset="utf-8", headers=headers)

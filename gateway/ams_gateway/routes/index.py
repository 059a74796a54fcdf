"""What is served here: `GET /` for a person with a browser, `GET /openapi.json` for programs."""

from html import escape

from aiohttp import web

from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.routes.routing import Services

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AI Model Server</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ccc; }}
</style>
<h1>AI Model Server</h1>
<table>
<tr><th>model</th><th>state</th><th>ready</th><th>takes</th></tr>
{rows}
</table>
<p><code>POST /generate/{{model}}</code>, or any OpenAI client against <code>/v1</code>.
<a href="/openapi.json">All routes</a>, <a href="/health">health</a>.</p>
</html>
"""


async def get_index(services: Services, call: Call) -> web.Response:
    rows = []
    for model in services.registry.models():
        takes = ", ".join(sorted(model.modalities)) if model.modalities is not None else "?"
        state = services.registry.progress(model).comment()
        cells = (model.name, state, str(len(services.registry.backends(model))), takes)
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return web.Response(
        text=_PAGE.format(rows="\n".join(rows) or '<tr><td colspan="4">none yet</td></tr>'),
        content_type="text/html",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
    )


async def get_openapi(services: Services, call: Call) -> web.Response:
    return json_response(call.request, services.openapi_document())

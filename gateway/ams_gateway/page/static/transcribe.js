// A recording written down, with the times of what was said.

import { refusalOf, request } from "./api.js";
import { errorView } from "./answer.js";
import { $, announce, copy, h } from "./dom.js";
import { duration } from "./format.js";
import { modelOf } from "./overview.js";
import { transcriptionCurl } from "./snippets.js";

export async function transcribe(model, item, prompt, signal) {
  const body = h("div", { class: "text" });
  const waiting = h("p", { class: "muted dots", text: "Listening" });
  $("chat").append(h("li", { class: "assistant" }, h("p", { class: "who", text: model }), waiting, body));
  const form = new FormData();
  form.set("model", model);
  form.set("response_format", "verbose_json");
  if (prompt) form.set("prompt", prompt);
  form.set("file", item.file, item.file.name);
  const began = performance.now();
  try {
    const response = await request("v1/audio/transcriptions", { method: "POST", form, signal });
    const requestId = response.headers.get("X-Request-Id") ?? "";
    const found = await response.json();
    if (found.error) throw refusalOf(found, response.status, requestId);
    const seconds = (performance.now() - began) / 1000;
    const segments = found.segments ?? [];
    body.append(
      h("p", { text: found.text || "Nothing was said." }),
      segments.length > 1 ? h("ul", {}, segments.map(({ start, end, text }) =>
        h("li", { text: `${start.toFixed(1)}–${end.toFixed(1)} s: ${text.trim()}` }))) : "",
      h("p", { class: "muted stats", text: [`${duration(found.duration ?? 0)} of sound in ${duration(seconds)}`, requestId && `request ${requestId}`].filter(Boolean).join(" · ") }),
      h("div", { class: "row" },
        h("button", { type: "button", class: "small", text: "Copy text", onclick: () => copy(found.text, "Text") }),
        h("button", { type: "button", class: "small", text: "Copy as curl", onclick: () => copy(transcriptionCurl(model, item), "curl command") })));
    announce(`Transcript: ${found.text.slice(0, 1000)}`);
  } catch (error) {
    if (error.name === "AbortError") body.append(h("p", { class: "muted", text: "stopped" }));
    else body.append(errorView(error, "", modelOf(model)));
    announce(error.name === "AbortError" ? "Stopped" : error.message);
  } finally {
    waiting.remove();
  }
}

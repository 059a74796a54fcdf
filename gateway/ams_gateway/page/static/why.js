// What delayed a request or made it fail, or why a model isn't ready: the gateway's own account, weightiest first.

import { getJson } from "./api.js";
import { h, showDialog } from "./dom.js";
import { duration } from "./format.js";

/** Show the account of a request (`{request: id}`) or of a model (`{model: name}`). */
export async function showWhy(query, title) {
  const body = h("div", { "aria-live": "polite" }, h("p", { class: "muted dots", text: "Asking gateway and pods" }));
  showDialog(title, body);
  try {
    const why = await getJson(`admin/why?${new URLSearchParams(query)}`);
    body.replaceChildren(
      why.causes.length ? h("ol", { class: "causes" }, why.causes.map(causeView)) : h("p", { text: why.sentence }),
      ...(why.notes ?? []).map((note) => h("p", { class: "muted", text: note })));
  } catch (error) {
    body.replaceChildren(h("p", { class: "error", text: error.message }));
  }
}

function causeView({ code, sentence, seconds, share, evidence = [], help }) {
  const facts = [code, seconds ? duration(seconds) : "", share ? `${Math.round(share * 100)} %` : ""].filter(Boolean);
  return h("li", {}, h("p", {}, h("strong", { text: sentence })), h("p", { class: "muted", text: facts.join(" · ") }),
    evidence.length ? h("ul", {}, evidence.map((text) => h("li", { text }))) : null,
    help ? h("p", { text: help }) : null);
}

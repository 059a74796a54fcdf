// The models: state, progress, figures, errors; started, stopped, and their logs read where that is allowed.

import { getJson, request } from "./api.js";
import { $, announce, copy, h, setText, showDialog } from "./dom.js";
import { ago, bytes, count, mood, progressText } from "./format.js";
import { onOverview } from "./overview.js";
import { showWhy } from "./why.js";

const LOG_SECONDS = 2;
const cards = new Map(); // name → {element, parts}

/** `onTry` is called with the name of a model that somebody wants to ask. */
export function start(onTry) {
  onOverview((overview) => {
    const names = overview.models.map((model) => model.name);
    for (const [name, card] of cards) {
      if (!names.includes(name)) { card.element.remove(); cards.delete(name); }
    }
    for (const [number, model] of overview.models.entries()) {
      if (!cards.has(model.name)) cards.set(model.name, newCard(model.name, onTry));
      const card = cards.get(model.name);
      if ($("model-list").children[number] !== card.element) $("model-list").insertBefore(card.element, $("model-list").children[number] ?? null);
      draw(card, model, overview);
    }
    if (!names.length) $("model-list").replaceChildren(h("p", { text: "There is no model that you may use." }));
    else for (const child of [...$("model-list").children]) if (child.tagName === "P") child.remove();
  });
}

function newCard(name, onTry) {
  const parts = {
    badge: h("span", { class: "badge" }), bar: h("progress", { max: 100, "aria-label": `Progress of ${name}`, hidden: true }),
    message: h("p", {}), help: h("p", { class: "muted" }), facts: h("dl", { class: "facts" }), aliases: h("span", { class: "muted" }),
    pods: h("tbody"), podsBox: null, errors: h("ul", { class: "errors" }), errorsBox: null, problem: h("p", { class: "error", role: "alert" }),
    start: h("button", { type: "button", text: "Start", "aria-label": `Start ${name}`, onclick: () => act(name, "start") }),
    stop: h("button", { type: "button", text: "Stop", "aria-label": `Stop ${name}`, onclick: () => act(name, "stop") }),
    why: h("button", { type: "button", text: "Why?", "aria-label": `Why? ${name}`, "aria-haspopup": "dialog",
      onclick: () => showWhy({ model: name }, `Why ${name} is as it is`) }),
    log: h("button", { type: "button", text: "Log", "aria-label": `Log of ${name}`, "aria-haspopup": "dialog", onclick: () => showLog(name) }),
  };
  parts.podsBox = h("details", {}, h("summary", { text: "Pods" }), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Pods of ${name}` },
    h("table", {}, h("thead", {}, h("tr", {}, ["pod", "running", "queued", "tokens/s", "prompt tokens/s", "memory", "cache"].map((text) => h("th", { scope: "col", text })))), parts.pods)));
  parts.errorsSummary = h("summary");
  parts.errorsBox = h("details", {}, parts.errorsSummary, parts.errors);
  const title = h("h3", { text: name, id: `model-${name}` });
  const element = h("article", { class: "card", "aria-labelledby": `model-${name}` },
    h("div", { class: "row" }, title, parts.badge, parts.aliases, h("span", { class: "space" }),
      h("button", { type: "button", text: "Ask", "aria-label": `Ask ${name}`, onclick: () => onTry(name) }), parts.start, parts.stop, parts.why, parts.log),
    parts.bar, parts.message, parts.help, parts.problem, parts.facts, parts.podsBox, parts.errorsBox);
  return { element, parts, figures: new Map() };

  async function act(model, verb) {
    parts.problem.textContent = "";
    try {
      const { state } = await getJson(`admin/models/${encodeURIComponent(model)}/${verb}`, { method: "POST" });
      announce(`${model}: ${verb === "start" ? "starting" : state}`);
    } catch (error) {
      parts.problem.textContent = error.message;
    }
  }
}

function draw(card, model, { user, time, where }) {
  const { parts } = card;
  setText(parts.badge, progressText(model.state, model.percent, model.eta_seconds));
  parts.badge.className = `badge ${mood(model.state)}`;
  setText(parts.aliases, model.aliases.length ? `also ${model.aliases.join(", ")}` : "");
  const moving = mood(model.state) === "wait";
  parts.bar.hidden = !moving;
  if (model.percent === null) parts.bar.removeAttribute("value");
  else parts.bar.value = model.percent;
  setText(parts.message, [model.reason, model.message].filter(Boolean).join(": "));
  parts.message.className = model.reason ? "error" : "muted";
  setText(parts.help, model.help);
  const admin = user.scopes.includes("admin");
  const running = model.ready_replicas > 0 || moving;
  parts.start.hidden = !model.controllable || running || model.state === "suspended";
  parts.stop.hidden = !model.controllable || !running;
  parts.why.hidden = !admin;
  parts.log.hidden = !admin || (where !== "local" && where !== "cluster");
  const { download } = model;
  const figures = {
    pods: `${model.ready_replicas} of ${model.replicas}`, running: count(model.in_flight), queued: count(model.queued), held: count(model.held),
    "tokens/s": model.tokens_per_second.toFixed(1),
    memory: model.memory_bytes ? bytes(model.memory_bytes) : null,
    takes: model.modalities?.join(", ") ?? "not known yet",
    context: model.max_model_len ? `${count(model.max_model_len)} tokens` : null,
    download: download?.bytesTotal ? `${bytes(download.bytesDone ?? 0)} of ${bytes(download.bytesTotal)}` : null,
    speed: download?.bytesPerSecond ? `${bytes(download.bytesPerSecond)}/s` : null,
    file: download?.file?.split("/").at(-1) ?? null,
  };
  for (const [name, value] of Object.entries(figures)) drawFigure(card, name, value);
  parts.podsBox.hidden = !model.pods.length;
  if (model.pods.length) {
    parts.pods.replaceChildren(...model.pods.map((pod) => h("tr", {}, [
      pod.id, pod.running, pod.queued, pod.tokens_per_second, pod.prompt_tokens_per_second,
      pod.memory_bytes === null ? null : bytes(pod.memory_bytes),
      pod.cache_capacity_tokens ? `${count(pod.cache_tokens)} of ${count(pod.cache_capacity_tokens)}` : null,
    ].map((value, column) => h(column ? "td" : "th", { scope: column ? null : "row", text: value === null ? "?" : String(value) })))));
  }
  parts.errorsBox.hidden = !model.errors.length;
  const total = model.errors.reduce((sum, error) => sum + error.count, 0);
  setText(parts.errorsSummary, `${total} ${total === 1 ? "error" : "errors"} in the last hour`);
  const key = JSON.stringify(model.errors);
  if (card.errorsKey !== key || card.errorsTime < time - 20) {
    Object.assign(card, { errorsKey: key, errorsTime: time });
    parts.errors.replaceChildren(...model.errors.map((error) => h("li", {},
      h("strong", { text: error.code }), ` ${ago(error.time, time)}${error.count > 1 ? `, ${error.count} times` : ""}`,
      error.message ? h("p", { text: error.message }) : null, h("p", { class: "muted", text: error.help }))));
  }
}

function drawFigure(card, name, value) {
  let figure = card.figures.get(name);
  if (!figure) {
    figure = { value: h("dd"), box: null };
    figure.box = h("div", {}, h("dt", { text: name }), figure.value);
    card.figures.set(name, figure);
    card.parts.facts.append(figure.box);
  }
  figure.box.hidden = value === null;
  setText(figure.value, value ?? "");
}

/** What the model's processes wrote since it last began to start, read again while the dialog is open. */
function showLog(name) {
  const text = h("pre", { tabindex: "0", role: "region", "aria-label": `Log of ${name}` }, "…");
  const problem = h("p", { class: "error", role: "alert" });
  const copyButton = h("button", { type: "button", class: "small", text: "Copy log", onclick: () => copy(text.textContent, "Log") });
  let timer = 0, open = true;
  const read = async () => {
    try {
      const log = await (await request(`admin/models/${encodeURIComponent(name)}/logs`)).text();
      const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 20;
      setText(text, log || "Nothing was written since it last began to start.");
      if (atEnd) text.scrollTop = text.scrollHeight;
      if (open) timer = setTimeout(read, LOG_SECONDS * 1000);
    } catch (error) {
      problem.textContent = error.command ? "" : error.message;
      setText(text, error.command || "There is no log.");
    }
  };
  showDialog(`Log of ${name}`, h("div", {}, problem, text, copyButton), () => { open = false; clearTimeout(timer); });
  read();
}

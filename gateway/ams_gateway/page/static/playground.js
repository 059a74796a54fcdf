// The playground: a model is chosen, asked in text and media, and answers; chats are kept in this browser.

import { namesOf } from "./adapters.js";
import { $, announce, closeDialog, copy, h, setText, showDialog } from "./dom.js";
import { Answer } from "./answer.js";
import { ago, mood, progressText } from "./format.js";
import * as history from "./history.js";
import { Attachments, Recorder, canRecord, partWithData, preview, whyNot } from "./media.js";
import { modelOf, onOverview } from "./overview.js";
import { curlOf, pythonOf, requestText } from "./snippets.js";
import { transcribe } from "./transcribe.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const ACCEPT = {
  image: "image/*,.heic,.heif,.avif,.jp2,application/pdf", audio: "audio/*,.flac,.opus,.amr,.wma,.caf",
  video: "video/*,.mkv,.avi,.mov,.flv,.wmv",
};

let messages = []; // {role, text, attachments}
let chatId = "";
let running = null; // AbortController of the answer that comes
let attachments;

const problem = (text) => { $("composer-error").textContent = text; };
const chosen = () => modelOf($("model").value);
const mode = () => document.querySelector('input[name="mode"]:checked').value;
const isSingle = (model) => Boolean(model?.features?.includes("single-question"));

export function start() {
  attachments = new Attachments(problem);
  newChat();
  onOverview(drawModels);
  $("model").addEventListener("change", drawChosen);
  for (const radio of document.querySelectorAll('input[name="mode"]')) radio.addEventListener("change", drawChosen);
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  $("stop").addEventListener("click", () => running?.abort());
  $("new-chat").addEventListener("click", () => { newChat(); $("prompt").focus(); });
  $("show-history").addEventListener("click", showHistory);
  $("attach").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { attachments.add([...$("file").files], chosen()); $("file").value = ""; });
  $("reset").addEventListener("click", () => {
    for (const id of [...NUMBERS, "system", "stop-texts"]) $(id).value = "";
    announce("Parameters reset");
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  $("prompt").addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) { event.preventDefault(); attachments.add([...event.clipboardData.files], chosen()); }
  });
  const area = $("playground");
  area.addEventListener("dragover", (event) => { event.preventDefault(); $("composer").classList.add("drop"); });
  area.addEventListener("dragleave", () => $("composer").classList.remove("drop"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    $("composer").classList.remove("drop");
    attachments.add([...event.dataTransfer.files], chosen());
  });
  if (canRecord()) new Recorder((file) => attachments.add([file], chosen()), problem);
}

/** Another user's words must not stay on the screen. */
export function leave() {
  running?.abort();
  newChat();
  for (const item of [...attachments.items]) attachments.remove(item);
  $("prompt").value = $("system").value = "";
}

export function choose(name) {
  $("model").value = name;
  drawChosen();
  $("prompt").focus();
}

function drawModels({ models, user, where }) {
  history.setUser(user.name);
  const names = namesOf(models);
  const select = $("model");
  if ([...select.options].map((option) => option.value).join("\n") !== names.join("\n")) {
    const before = select.value;
    select.replaceChildren(...names.map((name) => h("option", { value: name, text: name })));
    const ready = models.find((model) => model.state === "ready") ?? models.find((model) => model.state !== "failed");
    select.value = names.includes(before) ? before : ready?.name ?? names[0] ?? "";
  }
  $("no-model").hidden = names.length > 0;
  $("no-model").replaceChildren(h("p", { text: where === "cluster"
    ? "There is no model yet that you may use: apply a ModelDeployment." : "There is no model that you may use." }));
  $("composer").hidden = !names.length;
  drawChosen();
}

function drawChosen() {
  const model = chosen();
  if (!model) return;
  setText($("model-state"), progressText(model.state, model.percent, model.eta_seconds));
  $("model-state").className = `badge ${mood(model.state)}`;
  const takes = model.modalities;
  setText($("takes"), [
    takes ? `Takes ${takes.join(", ")}.` : "",
    isSingle(model) ? "Answers one question about one picture at a time." : "",
    model.max_model_len ? `Context of ${model.max_model_len.toLocaleString("en")} tokens.` : "",
    model.state === "idle" ? "It starts when you ask." : "",
    model.state === "failed" ? `${model.message} ${model.help}` : "",
  ].filter(Boolean).join(" "));
  const hears = takes?.includes("audio") ?? false;
  $("modes").hidden = !hears;
  if (!hears) document.querySelector('input[name="mode"][value="chat"]').checked = true;
  const files = (takes ?? ["image", "audio", "video"]).filter((kind) => kind !== "text");
  $("attach").hidden = !files.length;
  $("record").hidden = !canRecord() || !files.includes("audio");
  $("file").accept = mode() === "transcribe" ? `${ACCEPT.audio},${ACCEPT.video}` : files.map((kind) => ACCEPT[kind]).join(",");
  const transcribes = mode() === "transcribe";
  $("settings").hidden = transcribes;
  $("prompt").placeholder = transcribes ? "Words to expect, if you like. Attach or record audio."
    : files.length ? "Ask something. Drop, paste or record media." : "Ask something.";
}

/** The fields that were set; a problem is told and nothing is returned. */
function parameters() {
  const found = {};
  for (const name of NUMBERS) {
    const input = $(name);
    if (input.value === "" && !input.validity.badInput) continue;
    if (!input.checkValidity()) {
      $("settings").open = true;
      input.focus();
      problem(`${name}: ${input.validationMessage}`);
      return null;
    }
    found[name] = Number(input.value);
  }
  const stop = $("stop-texts").value.split("\n").filter(Boolean);
  if (stop.length) found.stop = stop;
  return found;
}

async function send() {
  if (running) return;
  problem("");
  const model = chosen();
  const text = $("prompt").value.trim();
  if (!model) return problem("Choose a model.");
  if (mode() === "transcribe") return sendRecording(model, text);
  if (!text && !attachments.items.length) return problem("Write something, or attach a file.");
  const unfit = attachments.items.map(({ file, kind }) => whyNot(file, kind, model.modalities, model.name)).find(Boolean);
  if (unfit) return problem(unfit);
  const fields = parameters();
  if (!fields) return;
  const message = { role: "user", text, attachments: attachments.take() };
  $("prompt").value = "";
  const system = $("system").value.trim();
  const before = isSingle(model) ? [] : [...(system ? [{ role: "system", text: system }] : []), ...messages.map((each) => fitting(each, model))];
  const asked = [...before, message];
  const body = { model: model.name, messages: [], stream: true, stream_options: { include_usage: true }, ...fields };
  messages.push(message);
  $("chat").append(userView(message));
  const chat = messages;
  const answer = new Answer(model.name, [
    ["Copy as curl", () => copy(curlOf(body, asked), "curl command")],
    ["Copy as Python", () => copy(pythonOf(body, asked), "Python program")],
    ["Details", () => showDetails(requestText(body, asked), answer)],
  ]);
  await run(answer, async (signal) => answer.run({ ...body, messages: await Promise.all(asked.map(withData)) }, signal));
  if (chat !== messages) return; // another chat was begun meanwhile
  if (answer.text) messages.push({ role: "assistant", text: answer.text });
  else { // nothing came: it is there to be tried again, and the next question is asked without it
    messages.pop();
    if (!$("prompt").value && !attachments.items.length) {
      $("prompt").value = message.text;
      attachments.put(message.attachments);
    }
  }
  keep(model.name);
}

async function sendRecording(model, prompt) {
  const item = attachments.items.find((each) => each.kind !== "image");
  if (!item) return problem("Attach or record audio, or a video with sound.");
  attachments.take();
  $("prompt").value = "";
  $("chat").append(userView({ text: prompt || "Transcribe", attachments: [item] }));
  await run(null, (signal) => transcribe(model.name, item, prompt, signal));
}

/** Do something that can be stopped; `answer` is shown first. */
async function run(answer, work) {
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  if (answer) {
    $("chat").append(answer.element);
    answer.asked = performance.now();
    answer.showWaiting();
    scrollTo({ top: document.documentElement.scrollHeight });
  }
  const focused = document.activeElement;
  try {
    await work(running.signal);
  } catch (error) {
    problem(error.message);
  } finally {
    running = null;
    if ([$("stop"), document.body].includes(document.activeElement) || focused === $("send")) $("prompt").focus();
    $("send").hidden = false;
    $("stop").hidden = true;
  }
}

/** An earlier message without the files that another model than the one that was asked then doesn't take. */
function fitting(message, { modalities }) {
  if (!modalities || !message.attachments?.length) return message;
  return { ...message, attachments: message.attachments.filter(({ kind }) => modalities.includes(kind)) };
}

/** A message as the API takes it. Files come before the text, as models are trained. */
async function withData({ role, text, attachments: files = [] }) {
  if (!files.length) return { role, content: text };
  const parts = await Promise.all(files.map(partWithData));
  return { role, content: text ? [...parts, { type: "text", text }] : parts };
}

function userView({ text, attachments: files = [], lost = 0 }) {
  return h("li", { class: "user" }, h("p", { class: "who", text: "You" }),
    files.length ? h("ul", { class: "media" }, files.map((file) => h("li", {}, preview(file)))) : null,
    lost ? h("p", { class: "muted", text: `${lost} ${lost === 1 ? "file is" : "files are"} not kept.` }) : null,
    h("div", { class: "text", text }));
}

/** What was sent and what came back. */
function showDetails(request, answer) {
  const part = (title, text) => [h("h3", { text: title }), h("pre", { tabindex: "0", role: "region", "aria-label": title, text })];
  showDialog("Details", h("div", {}, part("Request", request), part("Answer", JSON.stringify(answer.report(), null, 2))));
}

function newChat() {
  running?.abort();
  for (const { attachments: files = [] } of messages) for (const { url } of files) URL.revokeObjectURL(url);
  messages = [];
  chatId = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  $("chat").replaceChildren();
  problem("");
}

function keep(model) {
  if (!messages.some(({ role }) => role === "assistant")) return;
  history.keep({
    id: chatId, model, time: Math.floor(Date.now() / 1000), title: (messages[0].text || "Media").slice(0, 80),
    messages: messages.map(({ role, text, attachments: files = [], lost = 0 }) => ({ role, text, lost: files.length + lost })),
  });
}

function showHistory() {
  const found = history.chats();
  const list = h("ul", { class: "list" }, found.map((chat) => h("li", {},
    h("button", { type: "button", text: `${chat.title} · ${chat.model} · ${ago(chat.time, Date.now() / 1000)}`, onclick: () => open(chat) }),
    h("button", { type: "button", class: "small", text: "Delete", "aria-label": `Delete ${chat.title}`,
      onclick: () => { history.remove(chat.id); showHistory(); } }))));
  const clear = h("button", { type: "button", text: "Delete all", onclick: () => { history.clear(); showHistory(); } });
  showDialog("History", h("div", {},
    h("p", { class: "muted", text: "Chats are kept in this browser alone, without their files." }),
    found.length ? [list, clear] : h("p", { text: "There is no chat yet." })));
}

function open(chat) {
  newChat();
  chatId = chat.id;
  messages = chat.messages.map(({ role, text, lost }) => ({ role, text: String(text), lost }));
  for (const message of messages) {
    if (message.role === "user") $("chat").append(userView(message));
    else {
      const answer = new Answer(chat.model);
      answer.text = message.text;
      answer.draw();
      $("chat").append(answer.element);
    }
  }
  if (modelOf(chat.model)) choose(chat.model);
  closeDialog();
  $("prompt").focus();
}

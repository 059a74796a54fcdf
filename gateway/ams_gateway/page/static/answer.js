// One answer: asked for, streamed, shown with its thoughts, its speed, and what went wrong.

import { Refusal, meaningOf, refusalOf, request } from "./api.js";
import { announce, copy, h, setText } from "./dom.js";
import { PHASES, count, duration, progressText } from "./format.js";
import { markdown } from "./markdown.js";
import { modelOf, onOverview, overview } from "./overview.js";
import { events } from "./sse.js";
import { showWhy } from "./why.js";

const OFTEN_UP_TO = 20000; // characters; longer answers are drawn less often
const SPOKEN = 1000; // characters of a finished answer that are announced

/** What a comment of a stream tells of a model that starts; null if it is none. `downloading 43 % eta 190s` */
export function progressOf(comment) {
  const match = /^([a-z-]+)(?: (\d+) %)?(?: eta (\d+)s)?$/.exec(comment);
  if (!match || !PHASES.has(match[1])) return null;
  return { state: match[1], percent: match[2] && Number(match[2]), eta: match[3] && Number(match[3]) };
}

/** Yields {requestId, headers}, {progress}, {delta, reasoning, finish, usage, note}; raises Refusal. */
async function* stream(body, signal) {
  const response = await request("v1/chat/completions", { method: "POST", json: body, signal });
  const requestId = response.headers.get("X-Request-Id") ?? "";
  yield { requestId, headers: Object.fromEntries([...response.headers].filter(([name]) => name.startsWith("x-"))) };
  let whole = false;
  for await (const { comment, data } of events(response.body)) {
    if (comment !== undefined) {
      const progress = progressOf(comment);
      if (progress) yield { progress };
      continue;
    }
    if (data === "[DONE]") { // read on to the end: who leaves before it counts as gone
      whole = true;
      continue;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw refusalOf(chunk, 200, requestId);
    const choice = chunk.choices?.[0];
    yield {
      delta: choice?.delta?.content ?? "",
      reasoning: choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? "",
      finish: choice?.finish_reason, usage: chunk.usage, note: chunk.note,
    };
  }
  if (!whole) throw new Refusal("The connection ended before the answer was complete.", { requestId });
}

export class Answer {
  /** `actions` are buttons under a finished answer, as [label, function]. */
  constructor(name, actions = []) {
    this.name = name;
    this.actions = actions;
    this.text = "";
    this.reasoning = "";
    this.requestId = "";
    this.waiting = h("div", { class: "waiting" });
    this.thoughts = h("p", { class: "text" });
    this.summary = h("summary", { text: "Thoughts" });
    this.details = h("details", { class: "thoughts", hidden: true }, this.summary, this.thoughts);
    this.body = h("div", { class: "markdown text" });
    this.foot = h("div", { class: "foot" });
    this.element = h("li", { class: "assistant" }, h("p", { class: "who", text: name }), this.waiting, this.details, this.body, this.foot);
    this.drawing = 0;
  }

  /** Ask, and show the answer as it comes. Ends when it is whole, stopped by `signal`, or failed; "done" and so on. */
  async run(body, signal) {
    this.asked = performance.now();
    const ended = onOverview(() => this.showWaiting());
    this.element.setAttribute("aria-busy", "true");
    if (modelOf(this.name)?.state === "ready") announce(`${this.name} answers`);
    let outcome = "done";
    try {
      for await (const part of stream(body, signal)) this.take(part);
    } catch (error) {
      outcome = error.name === "AbortError" ? "stopped" : "failed";
      this.failure = error;
    }
    ended();
    this.ended = performance.now();
    this.settle(outcome);
    return outcome;
  }

  take({ requestId, headers, progress, delta = "", reasoning = "", finish, usage, note }) {
    if (requestId !== undefined) Object.assign(this, { requestId, headers });
    if (progress) {
      this.progress = progress;
      this.cold = performance.now();
      this.showWaiting();
    }
    if (delta || reasoning) {
      this.first ??= performance.now();
      this.last = performance.now();
    }
    this.text += delta;
    this.reasoning += reasoning;
    this.finish = finish ?? this.finish;
    this.usage = usage ?? this.usage;
    this.note = note ?? this.note;
    if (delta || reasoning) this.drawSoon();
  }

  /** While nothing came yet: how far the model is, by the stream itself or, before it tells, by the overview. */
  showWaiting() {
    if (this.first || this.ended) return this.waiting.replaceChildren();
    const model = modelOf(this.name);
    const known = this.progress ?? (model && model.state !== "ready" ? { state: model.state, percent: model.percent, eta: model.eta_seconds } : null);
    if (!known || known.state === "ready") {
      this.line ??= h("p", { class: "muted dots", text: "Waiting for the first word" });
      if (!this.line.isConnected || this.bar?.isConnected) this.waiting.replaceChildren(this.line);
      return;
    }
    if (!this.bar?.isConnected) {
      this.cold ??= performance.now();
      this.bar = h("progress", { max: 100, "aria-label": `${this.name} starts` });
      this.told = h("p", {});
      this.waiting.replaceChildren(this.told, this.bar);
      announce(`${this.name} is not running yet; it starts for you`);
    }
    setText(this.told, `${this.name} starts for you: ${progressText(known.state === "idle" ? "starting" : known.state, known.percent, known.eta)}`);
    if (known.percent === undefined || known.percent === null) this.bar.removeAttribute("value");
    else this.bar.value = known.percent;
  }

  drawSoon() {
    if (this.drawing) return;
    const draw = () => { this.drawing = 0; this.draw(); };
    this.drawing = this.text.length < OFTEN_UP_TO ? requestAnimationFrame(draw) : setTimeout(draw, 400);
  }

  draw() {
    const follows = isAtEnd();
    this.waiting.replaceChildren();
    this.details.hidden = !this.reasoning;
    setText(this.thoughts, this.reasoning.trim());
    setText(this.summary, this.text || this.ended ? "Thoughts" : "Thinking…");
    this.body.replaceChildren(...markdown(this.text));
    if (follows) scrollToEnd();
  }

  settle(outcome) {
    cancelAnimationFrame(this.drawing);
    clearTimeout(this.drawing);
    this.drawing = 0;
    const follows = isAtEnd();
    this.draw();
    this.element.removeAttribute("aria-busy");
    const facts = this.facts();
    const id = this.requestId || this.failure?.requestId;
    if (outcome === "stopped") facts.unshift("stopped");
    const silence = outcome === "done" && !this.text ? this.silence() : "";
    this.foot.replaceChildren(
      silence ? h("p", { class: "muted silence", text: silence }) : "",
      this.note ? h("p", { class: "muted", text: this.note }) : "",
      outcome === "failed" ? errorView(this.failure, this.requestId, modelOf(this.name)) : "",
      h("p", { class: "muted stats", text: facts.join(" · ") }),
      h("div", { class: "row" },
        this.text ? h("button", { type: "button", class: "small", text: "Copy text", onclick: () => copy(this.text, "Text") }) : null,
        id && overview()?.user.scopes.includes("admin")
          ? h("button", { type: "button", class: "small", text: "Why?", "aria-label": "Why? What delayed this answer", "aria-haspopup": "dialog",
            onclick: () => showWhy({ request: id }, "What delayed this answer") }) : null,
        this.actions.map(([label, act]) => h("button", { type: "button", class: "small", text: label, onclick: act }))));
    if (outcome === "done") announce(`${this.name}: ${this.text.slice(0, SPOKEN) || silence}`);
    else announce(outcome === "stopped" ? "Stopped" : this.failure.message);
    if (follows) scrollToEnd();
  }

  /** What to say of an answer that is whole and has no text: an empty space would look like a fault of the page. */
  silence() {
    return this.reasoning && this.finish === "length" ? "Its thoughts took all the tokens that it had: raise max_tokens."
      : "The answer is whole, and without text. You may ask again.";
  }

  /** All that is known of it, for who looks closer. */
  report() {
    const since = (time) => (time === undefined ? undefined : Math.round(time - this.asked));
    return {
      request_id: this.requestId || this.failure?.requestId, status: this.failure?.status, error: this.failure?.code || this.failure?.message,
      headers: this.headers, first_token_ms: since(this.first), last_token_ms: since(this.last), ended_ms: since(this.ended),
      finish_reason: this.finish, usage: this.usage, reasoning_content: this.reasoning || undefined, content: this.text,
    };
  }

  /** Sentences under the answer: first token, speed, tokens, why it ended, its id. */
  facts() {
    const facts = [];
    if (this.first) facts.push(`first token ${duration((this.first - this.asked) / 1000)}`);
    if (this.cold && this.first) facts.push("started for it");
    const tokens = this.usage?.completion_tokens;
    const seconds = this.first ? (this.last - this.first) / 1000 : 0;
    if (tokens > 1 && seconds > 0.05) facts.push(`${((tokens - 1) / seconds).toFixed(1)} tokens/s`);
    if (tokens !== undefined) facts.push(`${count(this.usage.prompt_tokens)} + ${count(tokens)} tokens`);
    if (this.finish === "length") facts.push("cut at max_tokens");
    if (this.requestId) facts.push(`request ${this.requestId}`);
    return facts;
  }
}

/** What went wrong, what helps, and the request's id. */
export function errorView(error, requestId, model) {
  const help = h("p", { class: "muted" });
  const id = error.requestId || requestId;
  if (error.code === "model_failed" && model?.help) help.textContent = model.help;
  else if (error.code) meaningOf(error.code).then((meaning) => { help.textContent = meaning; });
  return h("div", { class: "failure" },
    h("p", { class: "error", text: error instanceof Refusal ? error.message : "The page failed; reload it and try again." }),
    help, error.code || id ? h("p", { class: "muted", text: [error.code, id && `request ${id}`].filter(Boolean).join(" · ") }) : "");
}

let followed = 0; // where the page was when it last followed an answer

/** Whether its end is in sight, and nobody has moved up from it since: who reads on above isn't dragged down again. */
function isAtEnd() {
  const left = document.documentElement.scrollHeight - innerHeight - scrollY;
  return left < 8 || (left < 160 && scrollY >= followed);
}

function scrollToEnd() {
  scrollTo({ top: document.documentElement.scrollHeight });
  followed = scrollY;
}

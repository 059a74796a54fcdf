// Files that go with a message: chosen, dropped, pasted or recorded; kept in memory until the page is left.

import { $, announce, h } from "./dom.js";
import { bytes, duration } from "./format.js";

const MOST_BYTES = 200 * 1024 * 1024;
const BY_NAME = {
  image: /\.(png|jpe?g|jfif|webp|gif|bmp|tiff?|avif|heic|heif|jp2|ppm|tga|pdf)$/i,
  audio: /\.(wav|mp3|flac|m4a|aac|ogg|oga|opus|aiff?|caf|amr|au|wma|weba)$/i,
  video: /\.(mp4|m4v|mov|avi|webm|mkv|mpe?g|ts|flv|wmv)$/i,
};
const ARTICLES = { image: "an image", audio: "audio", video: "a video" };

/** `image` (also of a PDF), `audio`, `video`, or nothing. */
export function kindOf(file) {
  const type = file.type.split("/")[0];
  if (file.type === "application/pdf") return "image";
  if (type in BY_NAME) return type;
  return Object.keys(BY_NAME).find((kind) => BY_NAME[kind].test(file.name)) ?? "";
}

/** Why a model that takes `modalities` can't have a file of this kind; empty if it can, or if nobody knows. */
export function whyNot(file, kind, modalities, name) {
  if (!kind) return `${file.name} is neither a picture, audio nor a video.`;
  if (file.size === 0) return `${file.name} is empty.`;
  if (file.size > MOST_BYTES) return `${file.name} is larger than ${bytes(MOST_BYTES)}.`;
  if (modalities && !modalities.includes(kind)) return `${name} takes ${modalities.join(", ")}, and not ${ARTICLES[kind]}.`;
  return "";
}

const base64 = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => reject(new Error(`${file.name} can't be read.`));
  reader.readAsDataURL(file);
});

export const typeOf = ({ file, kind }) =>
  (file.type || { image: "image/png", audio: "audio/wav", video: "video/mp4" }[kind]).split(";")[0];

/** The part of a message for a file; `data` is its base64, or a stand-in for it. */
export function partOf(attachment, data) {
  const type = typeOf(attachment);
  if (type === "application/pdf") {
    return { type: "file", file: { filename: attachment.file.name, file_data: `data:${type};base64,${data}` } };
  }
  if (attachment.kind === "audio") return { type: "input_audio", input_audio: { data, format: type.split("/")[1].replace("mpeg", "mp3").replace("x-wav", "wav") } };
  return { type: `${attachment.kind}_url`, [`${attachment.kind}_url`]: { url: `data:${type};base64,${data}` } };
}

export const partWithData = async (attachment) => partOf(attachment, await base64(attachment.file));

/** An element that shows a file. */
export function preview(attachment, { controls = true } = {}) {
  const { file, kind, url } = attachment;
  if (kind === "image" && typeOf(attachment) !== "application/pdf") return h("img", { src: url, alt: `Picture: ${file.name}` });
  if (kind === "audio" && controls) return h("audio", { src: url, controls: true, "aria-label": `Audio: ${file.name}` });
  if (kind === "video") return h("video", { src: url, controls, muted: true, preload: "metadata", "aria-label": `Video: ${file.name}` });
  return h("span", { text: file.name });
}

/** The list of files of the message that is being written. */
export class Attachments {
  constructor(onProblem) {
    this.items = [];
    this.onProblem = onProblem;
  }

  /** Add files that `model` takes, and tell of those that it doesn't. */
  add(files, model) {
    const problems = [];
    for (const file of files) {
      const kind = kindOf(file);
      const problem = whyNot(file, kind, model?.modalities ?? null, model?.name ?? "The model");
      if (problem) problems.push(problem);
      else this.items.push({ file, kind, url: URL.createObjectURL(file) });
    }
    this.onProblem(problems.join(" "));
    if (files.length > problems.length) announce(`${this.items.length} attached`);
    this.draw();
  }

  remove(item) {
    this.items = this.items.filter((other) => other !== item);
    URL.revokeObjectURL(item.url);
    this.draw();
    $("prompt").focus();
  }

  /** Give them away to a message. */
  take() {
    const taken = this.items;
    this.items = [];
    this.draw();
    return taken;
  }

  /** Have these again, of a message that came to nothing. */
  put(items) {
    this.items = items.map(({ file, kind }) => ({ file, kind, url: URL.createObjectURL(file) }));
    this.draw();
  }

  draw() {
    $("attachments").hidden = !this.items.length;
    $("attachments").replaceChildren(...this.items.map((item) => h("li", {},
      preview(item, { controls: false }),
      h("span", { text: `${item.file.name}, ${bytes(item.file.size)} ` }),
      h("button", { type: "button", class: "small", text: "Remove", "aria-label": `Remove ${item.file.name}`, onclick: () => this.remove(item) }))));
  }
}

export const canRecord = () => Boolean(navigator.mediaDevices?.getUserMedia && globalThis.MediaRecorder);

/** The microphone's recorder behind a button: pressed once it records, pressed again it gives a file. */
export class Recorder {
  constructor(onFile, onProblem) {
    this.onFile = onFile;
    this.onProblem = onProblem;
    this.recorder = null;
    $("record").addEventListener("click", () => (this.recorder ? this.stop() : this.start()));
  }

  async start() {
    this.onProblem("");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch (error) {
      return this.onProblem(error.name === "NotFoundError" ? "There is no microphone." : "The browser doesn't allow recording here.");
    }
    const chunks = [], began = Date.now();
    const recorder = this.recorder = new MediaRecorder(stream);
    recorder.ondataavailable = ({ data }) => chunks.push(data);
    recorder.onstop = () => {
      clearInterval(timer);
      for (const track of stream.getTracks()) track.stop();
      this.recorder = null;
      $("record").textContent = "Record";
      $("record-time").textContent = "";
      const type = recorder.mimeType || "audio/webm";
      const ending = type.includes("mp4") ? "m4a" : type.includes("ogg") ? "ogg" : "webm";
      this.onFile(new File(chunks, `recording.${ending}`, { type: type.split(";")[0].replace("video/", "audio/") }));
    };
    const timer = setInterval(() => { $("record-time").textContent = duration((Date.now() - began) / 1000); }, 500);
    $("record").textContent = "Stop recording";
    announce("Recording");
    recorder.start();
  }

  stop() {
    this.recorder?.stop();
  }
}

// A request as curl or Python would send it, with places for the key and the files instead of themselves.

import { BASE, hasKey } from "./api.js";
import { partOf, typeOf } from "./media.js";

const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const URL_OF = (path) => new URL(path, BASE).href;
const AUTHORIZATION = ' -H "Authorization: Bearer $AMS_API_KEY"';

/** Stand-ins for files' data, which nothing that somebody wrote can spell; `names` are those of the files. */
function standIns() {
  const nonce = Math.random().toString(36).slice(2), names = [];
  return {
    names,
    mark: (attachment) => `@${nonce}-${names.push(attachment.file.name) - 1}@`,
    pattern: new RegExp(`@${nonce}-(\\d+)@`),
  };
}

/** The body of a request with `file(attachment)` in place of each file's data. */
function bodyWith(body, messages, file) {
  return {
    ...body,
    messages: messages.map(({ role, text, attachments = [] }) => ({
      role,
      content: attachments.length ? [...attachments.map((each) => partOf(each, file(each))), ...(text ? [{ type: "text", text }] : [])] : text,
    })),
  };
}

/** The request as it is sent, for a person: files are only named. */
export const requestText = (body, messages) =>
  JSON.stringify(bodyWith(body, messages, ({ file }) => `(base64 of ${file.name}, ${file.size} bytes)`), null, 2);

/** `body` is a chat request without messages; those are {role, text, attachments}. */
export function curlOf(body, messages) {
  const head = `curl -sN ${shellQuoted(URL_OF("v1/chat/completions"))}${hasKey() ? AUTHORIZATION : ""} -H 'Content-Type: application/json'`;
  const { names, mark, pattern } = standIns();
  const json = JSON.stringify(bodyWith(body, messages, mark), null, 1);
  if (!names.length) return `${head} -d ${shellQuoted(json)}\n`;
  // A picture may be longer than an argument, so the body comes through a here-document that reads the files.
  const text = json.replace(/[\\$`]/g, "\\$&").replace(new RegExp(pattern, "g"), (_, number) =>
    `$(base64 < ${shellQuoted(names[number])} | tr -d '\\n')`);
  return `${head} -d @- <<JSON\n${text}\nJSON\n`;
}

/** The same with OpenAI's client. */
export function pythonOf(body, messages) {
  const files = standIns();
  const { model, stream, stream_options, ...rest } = bodyWith(body, messages, files.mark);
  const fields = Object.entries({ model, ...rest }).map(([name, value]) => `    ${name}=${literal(value, "    ", files)},`);
  const reader = files.names.length
    ? 'def base64_of(name):\n    with open(name, "rb") as file:\n        return base64.b64encode(file.read()).decode()\n\n\n' : "";
  return `${files.names.length ? "import base64\n" : ""}import os

from openai import OpenAI

${reader}client = OpenAI(base_url=${literal(URL_OF("v1"))}, api_key=os.environ.get("AMS_API_KEY", "none"))
stream = client.chat.completions.create(
${fields.join("\n")}
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
`;
}

/** A transcription as curl sends it. */
export function transcriptionCurl(model, attachment) {
  return `curl -s ${shellQuoted(URL_OF("v1/audio/transcriptions"))}${hasKey() ? AUTHORIZATION : ""} \\\n` +
    `  -F model=${shellQuoted(model)} -F response_format=verbose_json \\\n` +
    `  -F ${shellQuoted(`file=@"${attachment.file.name.replace(/[\\"]/g, "\\$&")}";type=${typeOf(attachment)}`)}\n`;
}

/** A Python literal; strings of JSON are strings of Python. */
function literal(value, indent = "", files = null) {
  if (typeof value === "string") {
    const mark = files?.pattern.exec(value);
    if (!mark) return JSON.stringify(value);
    const before = value.slice(0, mark.index);
    return `${before ? `${JSON.stringify(before)} + ` : ""}base64_of(${JSON.stringify(files.names[mark[1]])})`;
  }
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return String(value);
  const inner = `${indent}    `;
  if (Array.isArray(value)) {
    return value.length ? `[\n${value.map((item) => `${inner}${literal(item, inner, files)},`).join("\n")}\n${indent}]` : "[]";
  }
  const items = Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, inner, files)}`);
  return `{${items.join(", ")}}`;
}

// The Markdown that models write, as elements. What isn't known stays text; there are no links, pictures or HTML.

import { copy, h } from "./dom.js";

const FENCE = /^\s{0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const DEEPEST = 8; // lists in lists, and emphasis in emphasis: more is text

/** Elements for a text. */
export function markdown(text, depth = 0) {
  const lines = text.split("\n"), blocks = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (fence) {
      const code = [];
      at += 1;
      while (at < lines.length && !isEnd(lines[at], fence[1])) code.push(lines[at++]);
      at += 1;
      blocks.push(codeBlock(code.join("\n"), fence[2]));
    } else if (/^\s*$/.test(line)) {
      at += 1;
    } else if (/^#{1,6}\s/.test(line)) {
      blocks.push(h("h4", {}, inline(line.replace(/^#+\s+/, "").replace(/\s#+\s*$/, ""))));
      at += 1;
    } else if (/^\s{0,3}>/.test(line)) {
      const quoted = [];
      while (at < lines.length && /^\s{0,3}>/.test(lines[at])) quoted.push(lines[at++].replace(/^\s{0,3}> ?/, ""));
      blocks.push(h("blockquote", {}, inline(quoted.join("\n"))));
    } else if (ITEM.test(line) && depth < DEEPEST) {
      const end = endOfList(lines, at);
      blocks.push(list(lines.slice(at, end), depth));
      at = end;
    } else {
      const paragraph = [];
      while (at < lines.length && isPlain(lines[at], paragraph.length)) paragraph.push(lines[at++]);
      blocks.push(h("p", {}, inline(paragraph.join("\n"))));
    }
  }
  return blocks;
}

const isEnd = (line, fence) => line.trim().startsWith(fence) && /^\s*[`~]+\s*$/.test(line);
const isPlain = (line, number) =>
  number === 0 || !(/^\s*$/.test(line) || FENCE.test(line) || /^#{1,6}\s/.test(line) || /^\s{0,3}>/.test(line) || ITEM.test(line));

function endOfList(lines, at) {
  while (at < lines.length && (ITEM.test(lines[at]) || /^\s+\S/.test(lines[at])) && !FENCE.test(lines[at])) at += 1;
  return at;
}

/** One level of items; what is indented further belongs to the item before. */
function list(lines, nested) {
  const first = ITEM.exec(lines[0]), depth = first[1].length, items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= depth + 1) items.push({ text: item[3], more: [] });
    else items.at(-1).more.push(line);
  }
  const ordered = /\d/.test(first[2]);
  const start = ordered ? Number.parseInt(first[2], 10) : 1;
  return h(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? start : null }, items.map((item) =>
    h("li", {}, inline(item.text), item.more.length ? markdown(dedent(item.more), nested + 1) : null)));
}

function dedent(lines) {
  const depth = Math.min(...lines.map((line) => /^\s*/.exec(line)[0].length));
  return lines.map((line) => line.slice(depth)).join("\n");
}

function codeBlock(code, language) {
  return h("div", {},
    h("div", { class: "code-head" }, h("span", { class: "muted", text: language }),
      h("button", { type: "button", class: "small", text: "Copy code", onclick: () => copy(code, "Code") })),
    h("pre", { tabindex: "0", role: "region", "aria-label": `Code ${language}`.trim() }, h("code", { text: code })));
}

/** Nodes for text with `code`, **bold** and *italic*; a line's end is a line's end. */
function inline(text, depth = 0) {
  const nodes = [];
  let plain = 0;
  for (let at = 0; at < text.length;) {
    const sign = text[at];
    if (sign !== "`" && sign !== "*") { at += 1; continue; }
    let length = 1;
    while (text[at + length] === sign) length += 1;
    const found = sign === "`" ? codeSpan(text, at, length) : depth < DEEPEST ? emphasis(text, at, length) : null;
    if (!found) { at += length; continue; }
    nodes.push(...withBreaks(text.slice(plain, at)));
    nodes.push(sign === "`" ? h("code", { text: found.inner }) : h(found.tag, {}, inline(found.inner, depth + 1)));
    at = plain = found.end;
  }
  return [...nodes, ...withBreaks(text.slice(plain))];
}

/** What is between two runs of `length` backticks. */
function codeSpan(text, at, length) {
  const fence = "`".repeat(length);
  for (let end = text.indexOf(fence, at + length); end >= 0; end = text.indexOf(fence, end)) {
    let run = length;
    while (text[end + run] === "`") run += 1;
    if (run === length) return { inner: text.slice(at + length, end).trim(), end: end + length };
    end += run;
  }
  return null;
}

/** What is between two runs of one or two stars, without spaces at its ends. */
function emphasis(text, at, length) {
  if (length > 2 || !/\S/.test(text[at + length] ?? " ")) return null;
  const stars = "*".repeat(length);
  const end = text.indexOf(stars, at + length + 1);
  if (end < 0 || /\s/.test(text[end - 1]) || text[end + length] === "*") return null;
  return { inner: text.slice(at + length, end), tag: length === 2 ? "strong" : "em", end: end + length };
}

function withBreaks(text) {
  return text.split("\n").flatMap((line, number) => (number ? [h("br"), line] : [line]));
}

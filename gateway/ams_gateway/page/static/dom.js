// Building and finding elements. Text is only ever put in as text: no markup of models or servers is parsed.

export const $ = (id) => document.getElementById(id);

/** An element with attributes (`on…` are listeners, `class`, `hidden`, `text`) and children; null ones are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let announced = 0;

/** Tell those who hear the page, once it is quiet; a later text replaces one that wasn't told yet. */
export function announce(text) {
  clearTimeout(announced);
  announced = setTimeout(() => { $("announcer").textContent = text; }, 150);
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let closed = () => {};

/** Show a dialog. `onClose` is called when it is left. */
export function showDialog(title, body, onClose = () => {}) {
  closed();
  closed = () => { closed = () => {}; onClose(); };
  $("dialog-title").textContent = title;
  $("dialog-body").replaceChildren(body);
  if (!$("dialog").open) $("dialog").showModal();
}

export function closeDialog() {
  $("dialog").close();
}

$("dialog").addEventListener("close", () => closed());
$("dialog-close").addEventListener("click", closeDialog);

/** Copy to the clipboard; where the browser doesn't allow that, as over plain HTTP, show the text to copy. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    announce(`${what} copied`);
    return true;
  } catch {
    const area = h("textarea", { rows: 14, readonly: true, "aria-label": what, value: text });
    showDialog(what, area);
    area.select();
    return false;
  }
}

export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

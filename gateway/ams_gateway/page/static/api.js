// The gateway's API as this page uses it. Addresses are relative, so that a proxy may serve all below a path.

export const BASE = new URL(".", document.baseURI);
const STORED = `ams-key ${BASE.pathname}`; // other servers behind the same name get no key

const LARGE = 1_000_000;

let key = "";
try { key = sessionStorage.getItem(STORED) ?? ""; } catch { /* storage is off: the key is forgotten on reload */ }

export const hasKey = () => key !== "";

/** Keep the key for this tab; an empty one forgets it. */
export function setKey(value) {
  key = value;
  try {
    if (value) sessionStorage.setItem(STORED, value);
    else sessionStorage.removeItem(STORED);
  } catch { /* as above */ }
}

/** A request that was refused or failed: what happened, what helps, and its id. */
export class Refusal extends Error {
  constructor(message, { code = "", status = 0, requestId = "", command = "" } = {}) {
    super(message);
    Object.assign(this, { code, status, requestId, command });
  }
}

let meanings = null;

/** What an error's code means, as the documentation says it; empty for codes that this server doesn't know. */
export async function meaningOf(code) {
  try {
    meanings ??= await (await fetch(new URL("errors.json", import.meta.url))).json();
    return meanings[code] ?? "";
  } catch {
    return "";
  }
}

/** The refusal that the body of an error says; both shapes of the API's errors are known. */
export function refusalOf(body, status = 0, requestId = "") {
  const inner = body?.error;
  if (typeof inner === "string") {
    const details = body.details ?? {};
    return new Refusal(inner, {
      code: details.code, status, requestId: details.request_id ?? requestId, command: details.command,
    });
  }
  if (inner && typeof inner.message === "string") {
    return new Refusal(inner.message, { code: inner.code, status, requestId: inner.request_id ?? requestId });
  }
  return new Refusal(`The server answered ${status} without saying why.`, { status, requestId });
}

/** A response with status 200; Refusal otherwise. `json` is a body, `form` a FormData. */
export async function request(path, { method = "GET", json, form, signal, accept } = {}) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (accept) headers.Accept = accept;
  if (method === "POST" && !form) headers["Content-Type"] = "application/json";
  const body = form ?? (json === undefined ? undefined : JSON.stringify(json));
  let response;
  try {
    response = await fetch(new URL(path, BASE), {
      method, headers, signal, body,
      cache: "no-store", credentials: "same-origin", redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const isLarge = form || body?.length > LARGE;
    throw new Refusal(isLarge ? "The connection ended while the request was sent: the server may not take as much."
      : "The server can't be reached.");
  }
  if (response.ok) return response;
  let said = null;
  try { said = await response.json(); } catch { /* no JSON: a proxy's own page */ }
  throw refusalOf(said, response.status, response.headers.get("X-Request-Id") ?? "");
}

export const getJson = async (path, options) => (await request(path, options)).json();

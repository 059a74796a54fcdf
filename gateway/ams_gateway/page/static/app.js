// The page put together: who looks, which view is shown, and whether the server can be reached.

import { getJson, hasKey, setKey } from "./api.js";
import { $ } from "./dom.js";
import * as models from "./models.js";
import { follow, forget, isFollowing, onOverview, overview, stop } from "./overview.js";
import * as playground from "./playground.js";
import * as usage from "./usage.js";

const VIEWS = ["playground", "models", "usage"];
const ANONYMOUS = "anonymous"; // who comes without a key where that is allowed
const HIDDEN_MS = 30000; // after which a page that nobody sees stops asking

let locked = false;
let wanted = ""; // the model that the playground is opened for

function view() {
  const named = location.hash.slice(1);
  const allowed = named !== "usage" || overview()?.user.scopes.includes("admin");
  return VIEWS.includes(named) && allowed ? named : "playground";
}

function show({ focus = false } = {}) {
  const current = view();
  for (const name of VIEWS) {
    $(name).hidden = locked || name !== current;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === current && !locked) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("login").hidden = !locked;
  document.querySelector("nav").hidden = locked;
  if (current === "usage" && !locked) usage.show();
  if (focus) $(`${current}-title`).focus();
}

/** Ask for a key; `why` is a refusal of the one that was given. */
function askForKey(why = null) {
  stop();
  locked = true;
  $("login-error").textContent = why && hasKey() ? why.message : "";
  setKey("");
  $("log-out").hidden = $("log-in").hidden = true;
  $("who").textContent = "";
  show();
  $("key").focus();
}

function drawUser({ user, where, version }) {
  const { name, scopes } = user;
  $("where").textContent = version && `${version} · ${{ local: "this machine", cluster: "cluster", static: "fixed backends" }[where] ?? where}`;
  $("who").textContent = name && name !== ANONYMOUS ? name : "";
  $("log-out").hidden = !hasKey();
  $("log-in").hidden = name !== ANONYMOUS;
  document.querySelector('nav a[href="#usage"]').hidden = !scopes.includes("admin");
}

function onState(state) {
  if (state === "live" || state === "lost") {
    $("connection").hidden = state === "live";
    $("connection").textContent = state === "live" ? "" : "The server can't be reached. Trying again …";
  } else if (state.status === 401) {
    $("connection").hidden = true;
    askForKey(state);
  } else {
    $("connection").hidden = false;
    $("connection").textContent = state.message;
    $("log-out").hidden = !hasKey();
  }
}

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("login-error").textContent = "";
  setKey($("key").value.trim());
  try {
    await getJson("overview");
  } catch (error) {
    setKey("");
    $("login-error").textContent = error.message;
    $("key").select();
    return;
  }
  $("key").value = "";
  locked = false;
  show();
  follow(onState);
  $("prompt").focus();
});
$("log-in").addEventListener("click", () => askForKey());
$("log-out").addEventListener("click", () => {
  setKey("");
  playground.leave();
  usage.clear();
  forget();
  locked = false;
  follow(onState);
});
addEventListener("hashchange", () => {
  show({ focus: !wanted });
  if (wanted) playground.choose(wanted);
  wanted = "";
});

let hiding = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(stop, HIDDEN_MS);
  else if (!locked && !isFollowing()) follow(onState);
});

playground.start();
models.start((name) => {
  wanted = name;
  location.hash = "#playground";
});
usage.start();
onOverview((found) => {
  drawUser(found);
  if (location.hash === "#usage" && $("usage").hidden) show();
});
show();
follow(onState);

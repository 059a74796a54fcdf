// The models as they are now: followed as a stream, and begun again when it breaks.

import { modelNamed } from "./adapters.js";
import { refusalOf, request } from "./api.js";
import { events } from "./sse.js";

const LONGEST_PAUSE = 10000;
const listeners = new Set();
let current = null;
let following = null;

export const overview = () => current;
export const modelOf = (name) => modelNamed(current?.models ?? [], name);

/** Call `listener` now, if there is an overview, and whenever there is a new one. Returns what ends that. */
export function onOverview(listener) {
  listeners.add(listener);
  if (current) listener(current);
  return () => listeners.delete(listener);
}

/** Follow until `stop`; `onState` hears of "live", of "lost", and of Refusals: those of a key end it. */
export function follow(onState) {
  stop();
  const controller = new AbortController();
  following = controller;
  run(controller.signal, onState);
}

export function stop() {
  following?.abort();
  following = null;
}

export const isFollowing = () => following !== null;

/** Know nothing any more: another user may come. */
export function forget() {
  stop();
  current = null;
  for (const listener of listeners) listener({ time: 0, version: "", where: "", user: { name: "", scopes: [] }, models: [] });
}

async function run(signal, onState) {
  let pause = 500;
  while (!signal.aborted) {
    try {
      const response = await request("overview", { signal, accept: "text/event-stream" });
      for await (const { event, data } of events(response.body)) {
        if (signal.aborted) return;
        if (event === "error") throw refusalOf(JSON.parse(data), 401);
        if (event !== "overview") continue;
        pause = 500;
        current = JSON.parse(data);
        onState("live");
        for (const listener of listeners) listener(current);
      }
      onState("lost");
    } catch (error) {
      if (signal.aborted) return;
      onState(error.status ? error : "lost");
      if (error.status === 401 || error.status === 403) return;
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }
}

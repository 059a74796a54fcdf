// Numbers as people read them.

export const count = (number) => (number ?? 0).toLocaleString("en");

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) { number /= 1024; unit += 1; }
  return `${number.toFixed(unit && number < 100 ? 1 : 0)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function ago(unix, now) {
  const seconds = Math.max(0, now - unix);
  return seconds < 5 ? "now" : `${duration(Math.round(seconds))} ago`;
}

const WORDS = {
  pending: "waiting", preflight: "checking the model", scheduling: "waiting for a node", starting: "starting",
  downloading: "downloading", verifying: "verifying the weights", converting: "converting the weights",
  loading: "loading", importing: "importing libraries", reading: "reading weights", building: "building the model",
  quantizing: "quantizing", packing: "packing weights", "warming-up": "warming up", checking: "asking golden prompts",
};
export const PHASES = new Set([...Object.keys(WORDS), "ready", "draining", "idle", "stopped", "suspended", "failed"]);

/** What a state is in words; `idle` and the like are words already. */
export const phase = (state) => WORDS[state] ?? state;

/** How a state is meant: good, wait, bad, or nothing of these. */
export function mood(state) {
  if (state === "ready") return "good";
  if (state === "failed") return "bad";
  return WORDS[state] || state === "draining" ? "wait" : "";
}

/** `downloading 43 %, about 3 min left`. */
export function progressText(state, percent, eta) {
  const parts = [phase(state)];
  if (percent !== null && percent !== undefined) parts[0] += ` ${Math.round(percent)} %`;
  if (eta !== null && eta !== undefined) parts.push(`about ${duration(Math.max(1, Math.round(eta)))} left`);
  return parts.join(", ");
}

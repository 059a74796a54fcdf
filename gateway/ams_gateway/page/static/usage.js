// What keys have used in a month, as a table with bars.

import { getJson, request } from "./api.js";
import { $, download, h } from "./dom.js";
import { count, duration } from "./format.js";

const MONTHS = 12;
const COLUMNS = [["requests", count], ["prompt_tokens", count], ["cached_tokens", count], ["completion_tokens", count], ["media", count], ["compute_seconds", duration]];

export function start() {
  const now = new Date();
  const months = Array.from({ length: MONTHS }, (_, back) => new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - back, 1)));
  $("month").replaceChildren(...months.map((month) => h("option", { value: month.toISOString().slice(0, 10), text: month.toISOString().slice(0, 7) })));
  for (const id of ["month", "group"]) $(id).addEventListener("change", show);
  $("csv").addEventListener("click", async () => {
    try {
      download(`usage-${$("month").value.slice(0, 7)}.csv`, await (await request(`admin/usage?${query()}&format=csv`)).blob());
    } catch (error) {
      $("usage-error").textContent = error.message;
    }
  });
}

function query() {
  const from = $("month").value;
  const last = new Date(Date.UTC(Number(from.slice(0, 4)), Number(from.slice(5, 7)), 0)).toISOString().slice(0, 10);
  return new URLSearchParams({ from, to: last, group: $("group").value });
}

export async function show() {
  $("usage-error").textContent = "";
  try {
    draw(await getJson(`admin/usage?${query()}`));
  } catch (error) {
    $("usage-table").replaceChildren();
    $("usage-error").textContent = error.message;
  }
}

/** What one user may see isn't for the next one. */
export const clear = () => $("usage-table").replaceChildren();

function draw({ group, rows, total }) {
  const most = Math.max(1, ...rows.map(tokensOf));
  const heads = [...group, ...COLUMNS.map(([name]) => name.replace("_", " ")), "share"];
  const cells = (row) => COLUMNS.map(([name, format]) => h("td", { text: format(row[name]) }));
  $("usage-table").replaceChildren(
    h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col", text })))),
    h("tbody", {}, rows.map((row) => h("tr", {},
      group.map((name, column) => h(column ? "td" : "th", { scope: column ? null : "row", text: row[name] ?? "" })), cells(row),
      h("td", { class: "bar" }, h("meter", { min: 0, max: most, value: tokensOf(row), "aria-label": `${count(tokensOf(row))} tokens` }))))),
    h("tfoot", {}, h("tr", {}, h("th", { scope: "row", colspan: group.length, text: "total" }), cells(total), h("td"))));
  if (!rows.length) $("usage-error").textContent = "Nothing was used in this month.";
}

const tokensOf = (row) => row.prompt_tokens + row.completion_tokens;

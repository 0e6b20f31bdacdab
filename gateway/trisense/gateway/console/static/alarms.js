// Alarms as they come: what a box's own rules say as sentences, all others with their values.

import { make, setText } from "./dom.js";
import { clockText, decimalsOf, nameLabel, unitLabel, valueText } from "./format.js";
import { ofRule } from "./model.js";

/** @import { Alarm } from "./types.js" */

const SHOWN = 50;
const ACTIVE_SHOWN = 200;

/** @param {Alarm} alarm @param {string} name */
const text = (alarm, name) => String(alarm.values[name] ?? "");

/** @param {Alarm} alarm @param {string} name */
function quantity(alarm, name) {
  const value = alarm.values[name];
  if (typeof value !== "number") return "";
  const unit = text(alarm, "unit");
  return `${valueText(value, decimalsOf(value, name))} ${unitLabel(unit)}`.trim();
}

/** @param {Alarm} alarm @returns {{state: string, words: string, about: string}} */
function told(alarm) {
  if (!ofRule(alarm)) {
    const about = Object.entries(alarm.values)
      .filter(([, value]) => value !== null && value !== "")
      .map(([name, value]) => `${name} ${value}`);
    return { state: "", words: [alarm.box, alarm.device, alarm.kind].filter(Boolean).join(" "), about: about.join(", ") };
  }
  const cleared = text(alarm, "state") === "cleared";
  const value = quantity(alarm, "value");
  const limit = quantity(alarm, "limit");
  const field = text(alarm, "field");
  const since = Date.parse(text(alarm, "since"));
  const held = Number(alarm.values["held"] ?? 0);
  const about = [
    text(alarm, "message"),
    value && `${field ? `${nameLabel(field)} ` : ""}${value}${limit && ` (limit ${limit})`}`,
    Number.isNaN(since) ? "" : `since ${clockText(since)}`,
    held ? `${held} changes in between not told` : "",
    `rule ${text(alarm, "rule")}`,
  ];
  return {
    state: cleared ? "cleared" : "raised",
    words: `${cleared ? "✓ cleared" : `▲ ${text(alarm, "priority")}`} ${alarm.box} ${text(alarm, "source")}`,
    about: about.filter(Boolean).join(", "),
  };
}

/** @param {Alarm} alarm */
function line(alarm) {
  const { state, words, about } = told(alarm);
  const time = make("time", "", new Date(alarm.time_ms).toLocaleString());
  return make("li", state, time, ` ${words} `, make("span", "about", about));
}

/**
 * What is raised now, newest first, however old it is; below it what else was told.
 * @param {HTMLElement} whole @param {HTMLElement} head @param {HTMLElement} list
 * @param {Alarm[]} alarms  newest last @param {Alarm[]} raised
 */
export function showAlarms(whole, head, list, alarms, raised) {
  const active = [...raised].sort((a, b) => b.time_ms - a.time_ms);
  const newest = alarms.at(-1) ?? active[0];
  whole.hidden = !newest;
  if (!newest) return;
  const many = alarms.length === 1 ? "1 alarm told" : `${alarms.length} alarms told`;
  const { words, state } = told(newest);
  setText(head, `${active.length ? `${active.length} active, ` : ""}${many}, latest ${clockText(newest.time_ms)}: ${words}`);
  head.classList.toggle("cleared", !active.length && state === "cleared");
  const first = active.slice(0, ACTIVE_SHOWN);
  const seen = new Set(first.map((alarm) => alarm.seq));
  const rest = alarms.slice(-SHOWN).reverse().filter((alarm) => !seen.has(alarm.seq));
  list.replaceChildren(...[...first, ...rest].map(line));
}

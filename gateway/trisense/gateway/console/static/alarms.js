// Alarms as they come: what a box's own rules say as sentences, all others with their values.

import { make, setText } from "./dom.js";
import { clockText, decimalsOf, nameLabel, unitLabel, valueText } from "./format.js";

/** @import { Alarm, BoxLive } from "./types.js" */

const SHOWN = 50;

/** Whether a rule of the box says it: ``box/alarm`` raises and clears, anything else only happens. @param {Alarm} alarm */
const ofRule = (alarm) => alarm.kind === "alarm" && alarm.device === "box" && typeof alarm.values["rule"] === "string";

/** What one rule watches. @param {Alarm} alarm */
const subject = ({ box, values }) =>
  JSON.stringify([box, values["rule"], values["source"], values["measurement"], values["field"]]);

/**
 * Rules that are still at work and whose newest word, by the box's time, is that the alarm is raised.
 * @param {Alarm[]} alarms @param {Map<string, BoxLive>} boxes
 */
function activeCount(alarms, boxes) {
  /** @type {Map<string, Alarm>} */
  const newest = new Map();
  for (const alarm of alarms) {
    if (ofRule(alarm) && alarm.time_ms >= (newest.get(subject(alarm))?.time_ms ?? -Infinity)) newest.set(subject(alarm), alarm);
  }
  const atWork = (/** @type {Alarm} */ { box, values }) => boxes.get(box)?.alarms?.includes(String(values["rule"])) ?? true;
  return [...newest.values()].filter((alarm) => alarm.values["state"] === "raised" && atWork(alarm)).length;
}

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

/**
 * @param {HTMLElement} whole @param {HTMLElement} head @param {HTMLElement} list
 * @param {Alarm[]} alarms  newest last @param {Map<string, BoxLive>} boxes
 */
export function showAlarms(whole, head, list, alarms, boxes) {
  const newest = alarms.at(-1);
  whole.hidden = !newest;
  if (!newest) return;
  const active = activeCount(alarms, boxes);
  const many = alarms.length === 1 ? "1 alarm told" : `${alarms.length} alarms told`;
  const { words, state } = told(newest);
  setText(head, `${active ? `${active} active, ` : ""}${many}, latest ${clockText(newest.time_ms)}: ${words}`);
  head.classList.toggle("cleared", !active && state === "cleared");
  list.replaceChildren(
    ...alarms
      .slice(-SHOWN)
      .reverse()
      .map((alarm) => {
        const { state: of, words: said, about } = told(alarm);
        const time = make("time", "", new Date(alarm.time_ms).toLocaleString());
        return make("li", of, time, ` ${said} `, make("span", "about", about));
      }),
  );
}

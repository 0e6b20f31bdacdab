// The page: puts the model, the link to the gateway and the views together.

import "./trusted.js"; // first: Leaflet makes markup from a string as it loads
import { showAlarms } from "./alarms.js";
import { Cameras } from "./cameras.js";
import { Chart } from "./chart.js";
import { byId, make, setText, statusIcon } from "./dom.js";
import { ageText, clockText, nameLabel, qualityOf, unitLabel, valueText, zonedClockText, decimalsOf } from "./format.js";
import { Link } from "./link.js";
import { BoxMap } from "./map.js";
import { keyOf, Model } from "./model.js";
import { ValuesTable } from "./values.js";

/** @import { Changes, Choice, Status, StreamLive } from "./types.js" */

const FRESH_MS = 5_000;
const OF_INTEREST = ["air_temperature", "pm2_5", "laeq", "vehicle_count"]; // what a chart begins with

const model = new Model();
const fields = {
  banner: byId("banner", HTMLElement),
  link: byId("link", HTMLElement),
  summary: byId("summary", HTMLElement),
  clock: byId("clock", HTMLElement),
  alarms: byId("alarms", HTMLDetailsElement),
  alarmsHead: byId("alarms-head", HTMLElement),
  alarmsList: byId("alarms-list", HTMLOListElement),
  boxes: byId("boxes", HTMLUListElement),
  boxChoice: byId("box-choice", HTMLSelectElement),
  fieldChoice: byId("field-choice", HTMLSelectElement),
  windowChoice: byId("window-choice", HTMLSelectElement),
  filter: byId("filter", HTMLInputElement),
  now: byId("now", HTMLElement),
  nowUnit: byId("now-unit", HTMLElement),
  nowAbout: byId("now-about", HTMLElement),
};
const chart = new Chart(byId("chart", HTMLElement), byId("readout", HTMLElement), byId("chart-note", HTMLElement), model);
const map = new BoxMap(byId("map", HTMLElement), model, chooseBox);
const cameras = new Cameras(byId("cameras", HTMLUListElement), byId("frame", HTMLDialogElement), model);
const values = new ValuesTable(byId("values", HTMLTableElement), model, choose);

/** @type {Choice} */
let choice = { box: "", device: "", measurement: "", field: "" };
let stale = false;
let raisedShown = 0;

/** Kept in the address, so that a reload or a link shows the same. */
function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const part = (/** @type {string} */ name) => asked.get(name) ?? "";
  choice = { box: part("box"), device: part("device"), measurement: part("measurement"), field: part("field") };
  if ([...fields.windowChoice.options].some(({ value }) => value === part("window"))) {
    fields.windowChoice.value = part("window");
  }
}

function writeAddress() {
  const kept = new URLSearchParams({ ...choice, window: fields.windowChoice.value });
  history.replaceState(null, "", `#${kept}`);
}

/** @param {Choice} wanted */
function choose(wanted) {
  const otherBox = wanted.box !== values.box;
  choice = wanted;
  if (otherBox) {
    values.show(choice.box);
    listFields();
  }
  fields.boxChoice.value = choice.box;
  fields.fieldChoice.value = choiceText(choice);
  values.mark(choice);
  chart.show(choice.field ? choice : null, Number(fields.windowChoice.value));
  writeAddress();
  showBoxes();
  showNow();
}

/** The same reading of another box where it has it, else one that is worth a look. @param {string} box */
function chooseBox(box) {
  const streams = model.streamsOf(box);
  const same = streams.filter((stream) => stream.measurement === choice.measurement && stream.fields[choice.field]);
  for (const field of [choice.field, ...OF_INTEREST]) {
    const stream = same[0] ?? streams.find((candidate) => candidate.fields[field]);
    if (stream && field) return choose({ box, device: stream.device, measurement: stream.measurement, field });
  }
  const stream = streams.find(firstNumber);
  choose({
    box,
    device: stream?.device ?? "",
    measurement: stream?.measurement ?? "",
    field: (stream && firstNumber(stream)) ?? "",
  });
}

/** @param {StreamLive} stream */
function firstNumber(stream) {
  return Object.keys(stream.fields).find((name) => stream.fields[name]?.type !== "str");
}

/** @param {Choice} of */
const choiceText = (of) => JSON.stringify([of.device, of.measurement, of.field]);

/** Makes sure that what is looked at exists. */
function settle() {
  const chosen = model.streams.get(keyOf(choice));
  if (chosen?.fields[choice.field]) choose(choice);
  else chooseBox(model.boxes.has(choice.box) ? choice.box : (bestBox() ?? ""));
}

/** The first box that has something to show. */
function bestBox() {
  const names = model.boxNames();
  return names.find((box) => model.streamsOf(box).some((stream) => firstNumber(stream))) ?? names[0];
}

function listBoxes() {
  const names = model.boxNames();
  fields.boxChoice.replaceChildren(...names.map((name) => new Option(name)));
  fields.boxChoice.value = choice.box;
  fields.boxes.replaceChildren(
    ...names.map((name) => {
      const button = make("button", "box", make("span", "icon"), make("span", "name", name), make("span", "about"));
      button.type = "button";
      button.dataset["box"] = name;
      button.addEventListener("click", () => chooseBox(name));
      return make("li", "", button);
    }),
  );
}

function listFields() {
  const groups = model.streamsOf(choice.box).map((stream) => {
    const group = make("optgroup");
    group.label = `${stream.device} · ${stream.measurement}`;
    for (const [field, { type }] of Object.entries(stream.fields)) {
      const { box, device, measurement } = stream;
      if (type !== "str") group.append(new Option(nameLabel(field), choiceText({ box, device, measurement, field })));
    }
    return group;
  });
  fields.fieldChoice.replaceChildren(...groups.filter((group) => group.childElementCount > 0));
  fields.fieldChoice.value = choiceText(choice);
}

function showBoxes() {
  /** @type {Record<Status, number>} */
  const counts = { online: 0, stale: 0, offline: 0 };
  for (const button of fields.boxes.querySelectorAll("button")) {
    const id = button.dataset["box"] ?? "";
    const box = model.boxes.get(id);
    if (!box) continue;
    const status = model.statusOf(box);
    counts[status]++;
    button.setAttribute("aria-pressed", String(id === choice.box));
    const [icon, , about] = button.children;
    if (button.dataset["status"] !== status) icon?.replaceChildren(statusIcon(status));
    button.dataset["status"] = status;
    const ageMs = box.seen_ms === null ? Infinity : model.now() - box.seen_ms;
    // A second's age of each of a thousand boxes is unrest, not news.
    const age = ageMs === Infinity ? "not heard yet" : ageMs > FRESH_MS ? ageText(ageMs) : "";
    if (about) setText(about, [box.site, age].filter(Boolean).join(" · "));
  }
  const parts = [`${model.boxes.size} ${model.boxes.size === 1 ? "box" : "boxes"}`];
  if (counts.offline) parts.push(`${counts.offline} offline`);
  if (counts.stale) parts.push(`${counts.stale} stale`);
  if (!counts.offline && !counts.stale && counts.online) parts.push("all online");
  setText(fields.summary, parts.join(", "));
  map.update(choice.box);
}

function showNow() {
  const stream = model.streams.get(keyOf(choice));
  const field = stream?.fields[choice.field];
  if (!stream || !field) {
    setText(fields.now, "–");
    setText(fields.nowUnit, "");
    setText(fields.nowAbout, "");
    return;
  }
  const decimals = typeof field.value === "number" ? Math.max(decimalsOf(field.value, choice.field), chart.decimals) : 0;
  const age = field.time_ms === null ? "never" : `${ageText(model.now() - field.time_ms)} ago`;
  const text = valueText(field.value, decimals);
  setText(fields.now, text);
  fields.now.classList.toggle("long", text.length > 6);
  setText(fields.nowUnit, unitLabel(field.unit));
  setText(fields.nowAbout, `${qualityOf(field).label}, ${age}`);
  fields.nowAbout.classList.toggle("old", field.now !== 1 || model.isOld(stream, field.time_ms));
}

/** @param {boolean} everything @param {Changes | null} changes */
function onChange(everything, changes) {
  if (everything) {
    listBoxes();
    cameras.clear();
    values.box = "";
    settle();
  } else if (changes) {
    if (Object.keys(changes.boxes).some((box) => ![...fields.boxChoice.options].some(({ value }) => value === box))) {
      listBoxes();
    }
    const fresh = changes.streams.some((stream) => stream.box === choice.box && !values.groups.has(keyOf(stream)));
    values.update(changes.streams);
    if (fresh) {
      listFields();
      values.mark(choice);
    }
    if (!choice.field) settle();
    const key = keyOf(choice);
    for (const stream of changes.streams) if (keyOf(stream) === key) chart.take(stream);
    showNow();
  }
  const raised = model.raised(); // a birth, too, may void one
  if (!changes || raised.length !== raisedShown) {
    showAlarms(fields.alarms, fields.alarmsHead, fields.alarmsList, model.alarms, raised);
    raisedShown = raised.length;
  }
  cameras.update();
}

/** @param {number} silentMs @param {boolean} isStale */
function onPulse(silentMs, isStale) {
  const known = model.seq >= 0;
  if (isStale !== stale) {
    stale = isStale;
    document.body.classList.toggle("stale", stale);
    fields.banner.hidden = !stale;
    // Told once: a count of seconds here would have a screen reader speak without end.
    const since = known ? ` since ${clockText(model.now() - silentMs)}. What is below was known then` : "";
    setText(fields.banner, `Nothing heard from the gateway${since}. Trying again.`);
  }
  setText(fields.link, stale ? `▲ stale ${ageText(silentMs)}` : known ? "● live" : "connecting");
  if (document.hidden || !known) return;
  if (!stale) {
    setText(fields.clock, zonedClockText(model.now()));
    chart.tick();
  }
  values.tick();
  cameras.tick();
  showBoxes();
  showNow();
}

fields.boxChoice.addEventListener("change", () => chooseBox(fields.boxChoice.value));
fields.fieldChoice.addEventListener("change", () => {
  const [device, measurement, field] = JSON.parse(fields.fieldChoice.value);
  choose({ box: choice.box, device, measurement, field });
});
fields.windowChoice.addEventListener("change", () => choose(choice));
fields.filter.addEventListener("input", () => values.setFilter(fields.filter.value));
readAddress();
new Link(model, onChange, onPulse);

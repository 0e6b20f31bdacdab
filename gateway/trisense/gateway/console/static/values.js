// The table of latest values of one box: a row group for each stream, a row for each field.

import { make, setText } from "./dom.js";
import { ageText, decimalsOf, nameLabel, qualityOf, unitLabel, valueText } from "./format.js";
import { keyOf } from "./model.js";

/** @import { Model } from "./model.js" */
/** @import { Choice, FieldLive, StreamLive } from "./types.js" */

/**
 * @typedef {object} Row
 * @property {HTMLTableRowElement} row
 * @property {HTMLTableCellElement} value
 * @property {HTMLTableCellElement} unit
 * @property {HTMLTableCellElement} quality
 * @property {HTMLTableCellElement} age
 * @property {number} decimals
 */
/** @typedef {{body: HTMLTableSectionElement, age: HTMLElement, rows: Map<string, Row>}} Group */

export class ValuesTable {
  /** @param {HTMLTableElement} table @param {Model} model @param {(choice: Choice) => void} onChoose */
  constructor(table, model, onChoose) {
    this.table = table;
    this.model = model;
    this.onChoose = onChoose;
    this.box = "";
    this.filter = "";
    /** @type {Map<string, Group>} by stream */
    this.groups = new Map();
  }

  /** @param {string} box */
  show(box) {
    this.box = box;
    for (const { body } of this.groups.values()) body.remove();
    this.groups.clear();
    this.update(this.model.streamsOf(box));
  }

  /** @param {string} text */
  setFilter(text) {
    this.filter = text.trim().toLowerCase();
    for (const [key, group] of this.groups) this.applyFilter(key, group);
  }

  /** @param {StreamLive[]} streams  those that changed, of any box */
  update(streams) {
    for (const stream of streams) {
      if (stream.box !== this.box) continue;
      const group = this.groups.get(keyOf(stream)) ?? this.addGroup(stream);
      for (const [name, field] of Object.entries(stream.fields)) {
        let row = group.rows.get(name);
        if (!row) {
          row = this.addRow(group, stream, name);
          this.applyFilter(keyOf(stream), group);
        }
        fill(row, name, field);
      }
    }
    this.tick();
  }

  /** Ages grow by themselves. */
  tick() {
    for (const [key, group] of this.groups) {
      const stream = this.model.streams.get(key);
      if (!stream || group.body.hidden) continue;
      setText(group.age, this.age(stream.time_ms));
      for (const [name, row] of group.rows) {
        const field = stream.fields[name];
        if (!field) continue;
        setText(row.age, this.age(field.time_ms));
        row.row.classList.toggle("old", field.now !== 1 || this.model.isOld(stream, field.time_ms));
      }
    }
  }

  /** @param {Choice | null} choice */
  mark(choice) {
    const key = choice ? keyOf(choice) : "";
    for (const [groupKey, group] of this.groups) {
      for (const [name, { row }] of group.rows) {
        row.classList.toggle("chosen", groupKey === key && name === choice?.field);
      }
    }
  }

  /** @param {number | null} timeMs */
  age(timeMs) {
    return timeMs === null ? "never" : ageText(this.model.now() - timeMs);
  }

  /** @param {string} key @param {Group} group */
  applyFilter(key, group) {
    let any = false;
    for (const [name, { row }] of group.rows) {
      row.hidden = !`${key} ${name} ${nameLabel(name)}`.toLowerCase().includes(this.filter);
      any ||= !row.hidden;
    }
    group.body.hidden = !any;
  }

  /** @param {StreamLive} stream */
  addGroup(stream) {
    const age = make("span", "age");
    const name = make("th", "", make("strong", "", stream.device), ` ${stream.measurement}`);
    const about = [stream.driver, stream.layer, stream.site].filter(Boolean).join(" · ");
    name.append(make("span", "about", about));
    name.scope = "rowgroup";
    name.colSpan = 4;
    const body = make("tbody", "", make("tr", "group", name, make("td", "", age)));
    /** @type {Group} */
    const group = { body, age, rows: new Map() };
    const key = keyOf(stream);
    this.groups.set(key, group);
    const order = this.model.streamsOf(this.box).map(keyOf);
    const after = order.slice(order.indexOf(key) + 1).find((other) => this.groups.has(other));
    this.table.insertBefore(body, (after && this.groups.get(after)?.body) || null);
    return group;
  }

  /** @param {Group} group @param {StreamLive} stream @param {string} name */
  addRow(group, stream, name) {
    const { box, device, measurement } = stream;
    const head = make("th");
    head.scope = "row";
    head.title = name;
    if (stream.fields[name]?.type === "str") {
      head.append(nameLabel(name));
    } else {
      const button = make("button", "link", nameLabel(name));
      button.type = "button";
      button.addEventListener("click", () => this.onChoose({ box, device, measurement, field: name }));
      head.append(button);
    }
    const row = {
      row: make("tr"),
      value: make("td", "value"),
      unit: make("td", "unit"),
      quality: make("td", "quality"),
      age: make("td", "age"),
      decimals: 0,
    };
    row.row.append(head, row.value, row.unit, row.quality, row.age);
    group.body.append(row.row);
    group.rows.set(name, row);
    return row;
  }
}

/** @param {Row} row @param {string} name @param {FieldLive} field */
function fill(row, name, field) {
  // A column of figures that keeps its decimals does not jump.
  if (typeof field.value === "number") row.decimals = Math.max(row.decimals, decimalsOf(field.value, name));
  const quality = qualityOf(field);
  setText(row.value, valueText(field.value, row.decimals));
  row.value.title = typeof field.value === "string" ? field.value : "";
  setText(row.unit, unitLabel(field.unit));
  setText(row.quality, quality.label);
  row.quality.className = `quality ${quality.level}`;
}

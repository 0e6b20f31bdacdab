// One chart of one field: history from the store, then live values as they come.

import uPlot from "./vendor/uplot.js";
import { setText } from "./dom.js";
import { clockText, decimalsOf, shortClockText, unitLabel, valueText } from "./format.js";
import { keyOf } from "./model.js";

/** @import { Model } from "./model.js" */
/** @import { Choice, FieldLive, StreamLive } from "./types.js" */

const BUCKETS = 600;
const POINTS_MAX = 3_000; // then history is asked for again, in buckets
const GAP_STEPS = 2.5;
const GAP_LEAST_S = 3;

/** @typedef {(number | null)[]} Column */

export class Chart {
  /**
   * @param {HTMLElement} element
   * @param {HTMLElement} readout  says what the cursor is on
   * @param {HTMLElement} note  says why there is nothing to see
   * @param {Model} model
   */
  constructor(element, readout, note, model) {
    this.element = element;
    this.readout = readout;
    this.note = note;
    this.model = model;
    /** @type {Choice | null} */
    this.choice = null;
    this.windowS = 600;
    this.unit = "";
    this.decimals = 0;
    this.asked = 0;
    this.drawnAtS = 0;
    /** @type {[number[], Column, Column, Column]} seconds, lowest, highest, mean; null where there is a gap */
    this.data = [[], [], [], []];
    this.plot = this.makePlot();
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plot.redraw(false, true));
    element.addEventListener("keydown", (event) => this.moveCursor(event));
  }

  /** @param {Choice | null} choice @param {number} windowS */
  show(choice, windowS) {
    const same = JSON.stringify([choice, windowS]) === JSON.stringify([this.choice, this.windowS]);
    this.choice = choice;
    this.windowS = windowS;
    if (!same) {
      this.decimals = 0;
      this.data = [[], [], [], []];
      this.draw();
    }
    const field = choice && this.model.streams.get(keyOf(choice))?.fields[choice.field];
    if (field) this.describe(field);
    void this.backfill();
  }

  /** Moves on while nothing comes: a chart that stands still would pass an old value for a new one. */
  tick() {
    const pixelS = this.windowS / this.size().width;
    if (this.model.now() / 1000 - this.drawnAtS >= Math.max(1, pixelS)) this.draw();
  }

  /** Takes the chosen stream's newest reading. @param {StreamLive} stream */
  take(stream) {
    const field = this.choice && stream.fields[this.choice.field];
    if (!field || typeof field.value !== "number" || field.time_ms === null) return;
    this.describe(field);
    if (!this.push(field.time_ms / 1000, field.value, field.value, field.value)) return;
    if (this.data[0].length > POINTS_MAX) void this.backfill();
    else this.draw();
  }

  /** @param {FieldLive} field */
  describe(field) {
    this.unit = unitLabel(field.unit);
    if (typeof field.value === "number") {
      this.decimals = Math.max(this.decimals, decimalsOf(field.value, this.choice?.field ?? ""));
    }
  }

  /**
   * @param {number} time_s @param {number} low @param {number} high @param {number} mean
   * @returns {boolean} whether it was newer than the rest
   */
  push(time_s, low, high, mean) {
    const times = this.data[0];
    const last = times.at(-1);
    if (last !== undefined && time_s <= last) return false;
    if (last !== undefined && time_s - last > this.gapS()) this.append((last + time_s) / 2, null, null, null);
    this.append(time_s, low, high, mean);
    const start = time_s - this.windowS;
    let old = 0;
    while ((times[old] ?? Infinity) < start) old++;
    // One point before the window stays, so that the line enters from the edge; cut in lumps, not each time.
    if (old > 100) for (const column of this.data) column.splice(0, old - 1);
    return true;
  }

  /** @param {number} time_s @param {number | null} low @param {number | null} high @param {number | null} mean */
  append(time_s, low, high, mean) {
    this.data[0].push(time_s);
    this.data[1].push(low);
    this.data[2].push(high);
    this.data[3].push(mean);
  }

  /** Longest step in time that is no gap: from the pace of the points that are there. */
  gapS() {
    const times = this.data[0];
    const steps = [];
    for (let i = Math.max(1, times.length - 50); i < times.length; i++) {
      steps.push((times[i] ?? 0) - (times[i - 1] ?? 0));
    }
    steps.sort((a, b) => a - b);
    const usual = steps[steps.length >> 1] ?? this.windowS;
    return Math.max(GAP_LEAST_S, GAP_STEPS * usual, GAP_STEPS * (this.windowS / BUCKETS));
  }

  async backfill() {
    const { choice } = this;
    const asked = ++this.asked;
    if (!choice) return this.say("Nothing to draw yet.");
    const now = this.model.now();
    const query = new URLSearchParams({
      box: choice.box,
      device: choice.device,
      measurement: choice.measurement,
      field: choice.field,
      from_ms: String(Math.round(now - this.windowS * 1000)),
      to_ms: String(Math.round(now)),
      buckets: String(BUCKETS),
      functions: "mean,min,max",
    });
    let problem = "";
    /** @type {{columns: string[], rows: number[][]}} */
    let table = { columns: [], rows: [] };
    try {
      const answer = await fetch(`/api/v1/aggregate?${query}`);
      const content = await answer.json();
      if (answer.ok) table = content;
      else problem = `No history: ${content.error}`;
    } catch {
      problem = "No history: the gateway cannot be reached.";
    }
    if (asked !== this.asked) return; // something else is looked at by now
    const newer = this.data;
    this.data = [[], [], [], []];
    const places = ["time_ms", "min", "max", "mean"].map((name) => table.columns.indexOf(name));
    for (const row of table.rows) {
      const [time_ms = 0, low = 0, high = 0, mean = 0] = places.map((place) => row[place]);
      this.push(time_ms / 1000, low, high, mean);
      // Lowest and highest are readings as they came; a mean would bring decimals that the sensor has not.
      this.decimals = Math.max(this.decimals, decimalsOf(low, choice.field), decimalsOf(high, choice.field));
    }
    const [times, lows, highs, means] = newer;
    times.forEach((time_s, i) => {
      const [low, high, mean] = [lows[i], highs[i], means[i]];
      if (typeof low === "number" && typeof high === "number" && typeof mean === "number") {
        this.push(time_s, low, high, mean);
      }
    });
    this.say(problem || (this.data[0].length ? "" : "No values in this time."));
    this.draw();
  }

  /** @param {string} text */
  say(text) {
    setText(this.note, text);
    this.note.hidden = text === "";
  }

  /** On demand: a loop that draws all the time keeps a wall display's processor hot. */
  draw() {
    if (this.data[0].length) this.note.hidden = true;
    this.drawnAtS = this.model.now() / 1000;
    this.plot.setData(this.data, false);
    this.plot.setScale("x", { min: this.drawnAtS - this.windowS, max: this.drawnAtS });
  }

  /** @param {KeyboardEvent} event */
  moveCursor(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const times = this.data[0];
    const at = Math.min(Math.max((this.plot.cursor.idx ?? times.length) + step, 0), times.length - 1);
    const time_s = times[at];
    if (time_s !== undefined) this.plot.setCursor({ left: this.plot.valToPos(time_s, "x"), top: 20 });
  }

  /** @param {uPlot} plot */
  readCursor(plot) {
    const at = plot.cursor.idx;
    const time_s = at === null || at === undefined ? undefined : this.data[0][at];
    const mean = at === null || at === undefined ? null : this.data[3][at];
    if (time_s === undefined || mean === null || mean === undefined) return setText(this.readout, "");
    const [low, high] = [this.data[1][at ?? 0] ?? mean, this.data[2][at ?? 0] ?? mean];
    const spread = low === high ? "" : ` (${valueText(low, this.decimals)} to ${valueText(high, this.decimals)})`;
    setText(this.readout, `${clockText(time_s * 1000)}  ${valueText(mean, this.decimals)} ${this.unit}${spread}`);
  }

  size() {
    return { width: Math.max(this.element.clientWidth, 100), height: Math.max(this.element.clientHeight, 100) };
  }

  makePlot() {
    const colour = (/** @type {string} */ name) => () => getComputedStyle(this.element).getPropertyValue(name);
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
    const font = "11px system-ui, sans-serif";
    return new uPlot(
      {
        ...this.size(),
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
        scales: { y: { range: (_, low, high) => padded(low, high, this.decimals) } },
        series: [
          {},
          { width: 0, points: { show: false } },
          { width: 0, points: { show: false } },
          { width: 1.5, stroke: colour("--accent"), points: { size: 4, fill: colour("--accent") } },
        ],
        bands: [{ series: [2, 1], fill: colour("--band") }],
        axes: [
          {
            ...axis,
            font,
            size: 30,
            space: 70,
            values: (_, splits, __, ___, step) =>
              splits.map((time_s) => (step < 60 ? clockText : shortClockText)(time_s * 1000)),
          },
          { ...axis, font, size: 56 },
        ],
        hooks: { setCursor: [(plot) => this.readCursor(plot)] },
      },
      this.data,
      this.element,
    );
  }
}

/**
 * A steady value should look steady: the scale spans at least ten steps of the last shown digit.
 * @param {number | null} low @param {number | null} high @param {number} decimals @returns {[number, number]}
 */
function padded(low, high, decimals) {
  if (low === null || high === null) return [0, 1];
  const margin = Math.max((high - low) * 0.12, (10 ** (1 - decimals) - (high - low)) / 2);
  return [low - margin, high + margin];
}

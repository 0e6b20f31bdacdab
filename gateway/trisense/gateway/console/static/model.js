// What the page knows: a copy of the gateway's live state, and the gateway's clock.

/** @import { Alarm, BoxLive, Changes, Snapshot, Status, StreamLive } from "./types.js" */

const ALARMS_KEPT = 200;
const BOX_QUIET_MS = 15_000;
const STREAM_QUIET_MS = 15_000;
const STREAM_QUIET_STEPS = 5;

/** What people look for first, and what only an expert opens. */
const FIRST = ["weather", "air_quality"];
const LAST = ["image", "image_health", "scene"];

/** Whether a rule of the box says it: such an alarm is raised and cleared, any other only happens. @param {Alarm} alarm */
export const ofRule = (alarm) =>
  alarm.kind === "alarm" && alarm.device === "box" && typeof alarm.values["rule"] === "string";

/** What one rule watches. @param {Alarm} alarm */
const subjectOf = ({ box, values }) =>
  JSON.stringify([box, values["rule"], values["source"], values["measurement"], values["field"]]);

/** @param {StreamLive} stream */
const rankOf = ({ measurement }) =>
  FIRST.includes(measurement) ? FIRST.indexOf(measurement) : FIRST.length + LAST.indexOf(measurement) + 1;

/** @param {StreamLive} a @param {StreamLive} b */
export const byInterest = (a, b) => rankOf(a) - rankOf(b) || (keyOf(a) < keyOf(b) ? -1 : 1);

/** @param {{box: string, device: string, measurement: string}} stream */
export const keyOf = (stream) => `${stream.box}/${stream.device}/${stream.measurement}`;

export class Model {
  constructor() {
    this.generation = "";
    this.seq = -1;
    /** @type {Map<string, BoxLive>} */
    this.boxes = new Map();
    /** @type {Map<string, StreamLive>} by keyOf */
    this.streams = new Map();
    /** @type {Alarm[]} newest last */
    this.alarms = [];
    /** @type {Map<string, Alarm>} newest word, by the box's time, on each thing that a rule watches; by subjectOf */
    this.words = new Map();
    this.clockOffsetMs = 0;
  }

  /** Milliseconds since 1970 by the gateway's clock: a browser's own may be wrong. */
  now() {
    return performance.now() + this.clockOffsetMs;
  }

  /** @param {number} nowMs  what the gateway's clock said in a message that has just come */
  setClock(nowMs) {
    this.clockOffsetMs = nowMs - performance.now();
  }

  /** @param {Snapshot} snapshot */
  replace(snapshot) {
    this.generation = snapshot.generation;
    this.boxes.clear();
    this.streams.clear();
    this.alarms = snapshot.alarms.slice(-ALARMS_KEPT);
    this.words.clear();
    for (const alarm of snapshot.raised) this.words.set(subjectOf(alarm), alarm);
    this.merge(snapshot);
  }

  /** @param {Changes} changes */
  merge(changes) {
    this.seq = changes.seq;
    for (const [id, box] of Object.entries(changes.boxes)) this.boxes.set(id, box);
    for (const stream of changes.streams) this.streams.set(keyOf(stream), stream);
  }

  /** @param {Alarm} alarm */
  addAlarm(alarm) {
    if (alarm.seq <= (this.alarms.at(-1)?.seq ?? -1)) return;
    this.alarms.push(alarm);
    if (this.alarms.length > ALARMS_KEPT) this.alarms.shift();
    if (!ofRule(alarm)) return;
    const known = this.words.get(subjectOf(alarm));
    if (!known || alarm.time_ms >= known.time_ms) this.words.set(subjectOf(alarm), alarm);
  }

  /** What rules have raised and not cleared since; a rule or device that its box has no more raises nothing. */
  raised() {
    const atWork = (/** @type {Alarm} */ { box, values }) => {
      const known = this.boxes.get(box);
      const source = String(values["source"]);
      if (!known?.alarms) return true;
      return known.alarms.includes(String(values["rule"])) && (source === "box" || source in known.devices);
    };
    return [...this.words.values()].filter((alarm) => alarm.values["state"] === "raised" && atWork(alarm));
  }

  boxNames() {
    return [...this.boxes.keys()].sort();
  }

  /** @param {string} box */
  streamsOf(box) {
    return [...this.streams.values()].filter((stream) => stream.box === box).sort(byInterest);
  }

  /** @param {BoxLive} box @returns {Status} */
  statusOf(box) {
    if (box.online === false) return "offline";
    return box.seen_ms === null || this.now() - box.seen_ms > BOX_QUIET_MS ? "stale" : "online";
  }

  /**
   * Whether a time is older than its stream's own pace explains.
   * @param {StreamLive} stream @param {number | null} timeMs
   */
  isOld(stream, timeMs) {
    if (timeMs === null || !stream.step_ms) return false;
    return this.now() - timeMs > Math.max(STREAM_QUIET_MS, STREAM_QUIET_STEPS * stream.step_ms);
  }
}

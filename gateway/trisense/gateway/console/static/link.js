// The connection to the gateway: a WebSocket of changes on top of a snapshot, mended by itself.

/** @import { AlarmMessage, Delta, Hello, Snapshot } from "./types.js" */
/** @import { Model } from "./model.js" */

const SILENT_MS = 3_000; // the gateway speaks twice a second
const GIVE_UP_MS = 10_000; // a connection this silent is dead, whatever the browser thinks
const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 2_000;

export class Link {
  /**
   * @param {Model} model
   * @param {(everything: boolean, keys: import("./types.js").Changes | null) => void} onChange
   * @param {(silentMs: number, stale: boolean) => void} onPulse  once a second
   */
  constructor(model, onChange, onPulse) {
    this.model = model;
    this.onChange = onChange;
    this.onPulse = onPulse;
    this.heardAt = performance.now();
    this.retryMs = RETRY_MIN_MS;
    /** @type {WebSocket | null} */
    this.socket = null;
    /** @type {Delta[]} what came while a snapshot was on its way */
    this.held = [];
    this.loading = false;
    this.generation = "";
    this.connect();
    setInterval(() => this.pulse(), 1_000);
  }

  connect() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/live`);
    this.socket = socket;
    socket.addEventListener("message", (event) => {
      if (socket === this.socket) this.hear(JSON.parse(event.data));
    });
    socket.addEventListener("close", () => {
      if (socket !== this.socket) return;
      this.socket = null;
      setTimeout(() => this.connect(), this.retryMs * (0.75 + Math.random() / 2));
      this.retryMs = Math.min(this.retryMs * 2, RETRY_MAX_MS);
    });
  }

  /** @param {Hello | Delta | AlarmMessage} message */
  hear(message) {
    this.heardAt = performance.now();
    if (message.kind === "alarm") {
      this.model.addAlarm(message.alarm);
      this.onChange(false, null);
      return;
    }
    this.model.setClock(message.now_ms);
    if (message.kind === "delta") {
      this.take(message);
    } else {
      this.retryMs = RETRY_MIN_MS;
      this.generation = message.generation;
      if (this.isOther() || message.seq !== this.model.seq) void this.load();
    }
  }

  /** Whether the model is of another start of the gateway, whose `seq` says nothing about this one's. */
  isOther() {
    return this.generation !== this.model.generation;
  }

  /** @param {Delta} delta */
  take(delta) {
    if (this.loading) {
      this.held.push(delta);
    } else if (delta.after > this.model.seq || this.isOther()) {
      void this.load(); // one was dropped on the way, or the model is of a gateway that is gone
    } else if (delta.seq > this.model.seq) {
      this.model.merge(delta);
      this.onChange(false, delta);
    }
  }

  async load() {
    if (this.loading) return;
    this.loading = true;
    this.held = [];
    const socket = this.socket;
    try {
      const answer = await fetch("/api/v1/state", { signal: AbortSignal.timeout(GIVE_UP_MS) });
      if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
      this.model.replace(/** @type {Snapshot} */ (await answer.json()));
      this.onChange(true, null);
    } catch {
      socket?.close(); // and so begins again
    }
    this.loading = false;
    for (const delta of this.held.splice(0)) this.take(delta);
  }

  pulse() {
    const silentMs = performance.now() - this.heardAt;
    if (silentMs > GIVE_UP_MS && this.socket?.readyState === WebSocket.OPEN) this.socket.close();
    this.onPulse(silentMs, silentMs > SILENT_MS);
  }
}

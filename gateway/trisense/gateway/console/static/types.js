// Shapes of what the gateway sends, for the type checker; see hub.py and live.py.

/** @typedef {{latitude: number, longitude: number, height_m: number | null}} Position */

/**
 * @typedef {object} BoxLive
 * @property {string} site
 * @property {Position | null} position
 * @property {string | null} version
 * @property {string[] | null} alarms  names of its rules, where it has said them
 * @property {Record<string, unknown>} devices  by name
 * @property {boolean | null} online
 * @property {string | null} since
 * @property {number | null} seen_ms
 */

/**
 * The newest reading that is a value, and `now`: the quality code of the newest sample.
 * @typedef {object} FieldLive
 * @property {number | string | null} value
 * @property {number | null} time_ms
 * @property {number | null} quality
 * @property {number} now
 * @property {string} unit
 * @property {"int" | "float" | "str"} type
 */

/**
 * @typedef {object} StreamLive
 * @property {string} box
 * @property {string} device
 * @property {string} measurement
 * @property {string | null} driver
 * @property {"ground" | "air" | "sky"} layer
 * @property {string} site
 * @property {Position | null} position
 * @property {number | null} time_ms
 * @property {number | null} step_ms  gap between its two newest ticks
 * @property {Record<string, FieldLive>} fields
 * @property {{id: string, time_ms: number} | null} media
 */

/**
 * @typedef {object} Alarm
 * @property {number} seq
 * @property {number} time_ms
 * @property {string} box
 * @property {string} device
 * @property {string} kind
 * @property {Record<string, number | string | null>} values
 */

/** @typedef {{seq: number, now_ms: number, boxes: Record<string, BoxLive>, streams: StreamLive[]}} Changes */
/** @typedef {Changes & {generation: string, alarms: Alarm[], raised: Alarm[]}} Snapshot */
/** @typedef {{kind: "hello", generation: string, seq: number, now_ms: number}} Hello */
/** @typedef {Changes & {kind: "delta", after: number}} Delta */
/** @typedef {{kind: "alarm", alarm: Alarm}} AlarmMessage */

/** What is looked at. @typedef {{box: string, device: string, measurement: string, field: string}} Choice */

/** @typedef {"online" | "stale" | "offline"} Status */

export {};

// Numbers, units, names and ages as a person reads them.

/** UCUM codes that people write otherwise. @type {Record<string, string>} */
const UNITS = {
  1: "",
  By: "B",
  "{pixel}": "px",
  Cel: "°C",
  deg: "°",
  "ug/m3": "µg/m³",
  "W/m2": "W/m²",
  "uS/cm": "µS/cm",
  "/cm3": "1/cm³",
  "[ppm]": "ppm",
  "[ppb]": "ppb",
  "[pH]": "pH",
  "dB[SPL]": "dB",
  "[ft_i]": "ft",
  "[kn_i]": "kn",
};

/** @type {Record<string, string>} */
const NAMES = {
  pm1: "PM1",
  pm2_5: "PM2.5",
  pm4: "PM4",
  pm10: "PM10",
  pm100: "PM100",
  co2: "CO₂",
  co: "CO",
  no2: "NO₂",
  so2: "SO₂",
  o3: "O₃",
  uv_index: "UV index",
  laeq: "LAeq",
  ndvi: "NDVI",
  rssi: "RSSI",
  epc: "EPC",
  icao: "ICAO",
};

/** QARTOD codes. @type {Record<number, {label: string, level: string}>} */
const QUALITY = {
  1: { label: "good", level: "good" },
  2: { label: "unchecked", level: "good" },
  3: { label: "suspect", level: "warn" },
  4: { label: "fail", level: "bad" },
  9: { label: "missing", level: "bad" },
};

/** @param {{quality: number | null, now: number}} field  the newest sample's word counts, not the shown value's */
export function qualityOf(field) {
  const code = field.now === 1 ? (field.quality ?? 9) : field.now;
  return QUALITY[code] ?? { label: `code ${code}`, level: "warn" };
}

/** @param {string} code UCUM; an annotation such as {vehicle} is its own word */
export const unitLabel = (code) => UNITS[code] ?? code.replace(/^\{(.*)\}$/, "$1");

/** @param {string} name */
export function nameLabel(name) {
  const known = NAMES[name];
  if (known) return known;
  const uncorrected = /^(pm\w+)_cf1$/.exec(name);
  if (uncorrected) return `${NAMES[uncorrected[1] ?? ""] ?? uncorrected[1]} (CF=1)`;
  const particles = /^pnc_(gt|lt)_(\w+)um$/.exec(name);
  if (particles) return `Particles ${particles[1] === "gt" ? ">" : "<"} ${particles[2]?.replace("_", ".")} µm`;
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

const MOST_DECIMALS = 4;
const PLACE_DECIMALS = 6;

/** How many decimals a number needs. @param {number} value @param {string} name */
export function decimalsOf(value, name) {
  const most = name === "latitude" || name === "longitude" ? PLACE_DECIMALS : MOST_DECIMALS;
  const digits = value.toFixed(most).replace(/0+$/, "");
  return digits.length - digits.indexOf(".") - 1;
}

/** @param {number | string | null} value @param {number} decimals */
export function valueText(value, decimals) {
  if (value === null) return "–";
  if (typeof value === "string") return value;
  if (value !== 0 && (Math.abs(value) >= 1e9 || Math.abs(value) < 1e-4)) return value.toPrecision(4);
  return value.toFixed(decimals);
}

/** @param {number} ms @returns {string} */
export function ageText(ms) {
  const s = Math.round(ms / 1000);
  if (s < -5) return `${ageText(-ms)} ahead`; // the box's clock is, and this should be seen
  if (s < 0) return "0 s";
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const SHORT_CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const ZONED = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  timeZoneName: "short",
});

/** @param {number} ms */
export const clockText = (ms) => CLOCK.format(ms);
/** @param {number} ms */
export const shortClockText = (ms) => SHORT_CLOCK.format(ms);
/** With the time zone's name. @param {number} ms */
export const zonedClockText = (ms) => ZONED.format(ms);

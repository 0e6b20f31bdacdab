// Must be imported before Leaflet. The page's content security policy lets markup be made from strings only
// through this policy: Leaflet's one probe passes, anything else becomes the text that it is.

const PROBE = "<svg/>"; // Leaflet asks so whether the browser draws SVG

/** @param {string} text */
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

/** @type {any} */
const factory = Reflect.get(window, "trustedTypes"); // absent in older browsers, which then do not enforce it
factory?.createPolicy("default", { createHTML: (/** @type {string} */ text) => (text === PROBE ? text : escaped(text)) });

export {};

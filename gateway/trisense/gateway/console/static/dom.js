// Elements. Text goes in as text, never as markup: names come from devices.

/** @import { Status } from "./types.js" */

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`);
  return found;
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {string} [className]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Writes only what differs, so that nothing is laid out again for nothing. @param {Node} node @param {string} text */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A shape as well as a colour for each status. @type {Record<Status, string>} */
const SHAPES = {
  online: "M8 2a6 6 0 1 1 0 12a6 6 0 1 1 0-12z",
  stale: "M8 1.5l7 12.5h-14z",
  offline: "M2 2h12v12h-12z M5 5l6 6 M11 5l-6 6",
};

/** @param {Status} status */
export function statusIcon(status) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", `status ${status}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", status);
  path.setAttribute("d", SHAPES[status]);
  svg.append(path);
  return svg;
}

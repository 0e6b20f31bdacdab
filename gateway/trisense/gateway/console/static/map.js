// The map of boxes. No tiles: it has to work without the internet; a graticule and a scale give the place.

import * as L from "./vendor/leaflet.js";
import { make, statusIcon } from "./dom.js";

/** @import { Model } from "./model.js" */
/** @import { Position, Status } from "./types.js" */

const STEPS_DEG = [30, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002];
const LINES_WANTED = 4;
const LABEL_PX = 60;
const LABELS_MAX = 60; // more would hide the markers
const CLOSEST_ZOOM = 17;

export class BoxMap {
  /** @param {HTMLElement} element @param {Model} model @param {(box: string) => void} onChoose */
  constructor(element, model, onChoose) {
    this.model = model;
    this.onChoose = onChoose;
    this.map = L.map(element, {
      attributionControl: false,
      zoomControl: false,
      zoomSnap: 0.25,
      worldCopyJump: true,
    }).setView([20, 100], 2);
    // Plain texts: Leaflet's own are markup, which trusted.js would show as text.
    L.control.zoom({ zoomInText: "+", zoomOutText: "−" }).addTo(this.map);
    L.control.scale({ imperial: false, position: "topright" }).addTo(this.map);
    this.graticule = L.layerGroup().addTo(this.map);
    /** @type {Map<string, {marker: L.Marker, looks: string}>} */
    this.markers = new Map();
    this.fitted = false;
    this.map.on("moveend zoomend resize", () => this.drawGraticule());
    new ResizeObserver(() => this.map.invalidateSize({ animate: false })).observe(element);
    this.drawGraticule();
  }

  /** Follows the model; redraws only markers whose looks changed. @param {string} chosen */
  update(chosen) {
    for (const [id, { marker }] of this.markers) {
      if (!this.model.boxes.has(id)) {
        marker.remove();
        this.markers.delete(id);
      }
    }
    for (const [id, box] of this.model.boxes) {
      if (box.position) this.place(id, box.position, this.model.statusOf(box), id === chosen);
    }
    this.map.getContainer().classList.toggle("dense", this.markers.size > LABELS_MAX);
    if (!this.fitted && this.markers.size > 0) this.fit();
  }

  /** @param {string} id @param {Position} position @param {Status} status @param {boolean} chosen */
  place(id, position, status, chosen) {
    const looks = `${status} ${chosen} ${position.latitude} ${position.longitude}`;
    const known = this.markers.get(id);
    if (known?.looks === looks) return;
    const icon = L.divIcon({
      html: make("span", `box-marker${chosen ? " chosen" : ""}`, statusIcon(status), make("span", "label", id)),
      className: "",
      iconSize: [18, 18],
    });
    /** @type {L.LatLngTuple} */
    const at = [position.latitude, position.longitude];
    if (known) {
      known.marker.setIcon(icon).setLatLng(at).setZIndexOffset(chosen ? 1000 : 0);
      known.looks = looks;
    } else {
      const marker = L.marker(at, { icon, alt: id }).addTo(this.map);
      marker.on("click", () => this.onChoose(id));
      this.markers.set(id, { marker, looks });
    }
  }

  fit() {
    this.fitted = true;
    const bounds = L.latLngBounds([...this.markers.values()].map(({ marker }) => marker.getLatLng()));
    this.map.fitBounds(bounds, { padding: [48, 40], maxZoom: CLOSEST_ZOOM, animate: false });
  }

  drawGraticule() {
    this.graticule.clearLayers();
    const bounds = this.map.getBounds();
    const span = bounds.getEast() - bounds.getWest();
    const step = STEPS_DEG.find((candidate) => span / candidate >= LINES_WANTED) ?? STEPS_DEG[STEPS_DEG.length - 1];
    if (step === undefined || span <= 0) return;
    const decimals = Math.max(0, Math.ceil(-Math.log10(step)));
    const size = this.map.getSize();
    for (let i = Math.ceil(bounds.getWest() / step); i * step < bounds.getEast(); i++) {
      const x = i * step;
      const foot = this.map.containerPointToLatLng([0, size.y - 1]).lat;
      const room = this.map.latLngToContainerPoint([foot, x]).x < size.x - LABEL_PX;
      this.line([[-85, x], [85, x]], [foot, x], room ? degrees(x, decimals, "E", "W") : "", "meridian");
    }
    for (let i = Math.ceil(Math.max(bounds.getSouth(), -85) / step); i * step < Math.min(bounds.getNorth(), 85); i++) {
      const y = i * step;
      const edge = this.map.containerPointToLatLng([size.x - 1, 0]).lng;
      this.line([[y, bounds.getWest() - span], [y, bounds.getEast() + span]], [y, edge], degrees(y, decimals, "N", "S"), "parallel");
    }
  }

  /** @param {L.LatLngTuple[]} points @param {L.LatLngTuple} labelAt @param {string} text @param {string} kind */
  line(points, labelAt, text, kind) {
    this.graticule.addLayer(L.polyline(points, { className: "graticule", interactive: false, weight: 1, noClip: false }));
    const icon = L.divIcon({ html: make("span", `graticule-label ${kind}`, text), className: "", iconSize: [0, 0] });
    this.graticule.addLayer(L.marker(labelAt, { icon, interactive: false, keyboard: false, zIndexOffset: -1000 }));
  }
}

/** @param {number} value @param {number} decimals @param {string} plus @param {string} minus */
function degrees(value, decimals, plus, minus) {
  return `${Math.abs(value).toFixed(decimals)}°${value < 0 ? minus : plus}`;
}

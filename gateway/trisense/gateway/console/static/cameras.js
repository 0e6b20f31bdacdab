// The newest frame of each camera. A frame is fetched only while its card can be seen.

import { make, setText } from "./dom.js";
import { ageText } from "./format.js";
import { keyOf } from "./model.js";

/** @import { Model } from "./model.js" */
/** @import { StreamLive } from "./types.js" */

/**
 * @typedef {object} Card
 * @property {string} key
 * @property {HTMLLIElement} item
 * @property {HTMLImageElement} image
 * @property {HTMLElement} note
 * @property {HTMLElement} age
 * @property {string} shown  media id
 * @property {boolean} visible
 */

export class Cameras {
  /** @param {HTMLUListElement} list @param {HTMLDialogElement} dialog @param {Model} model */
  constructor(list, dialog, model) {
    this.list = list;
    this.model = model;
    this.dialog = dialog;
    /** @type {Map<string, Card>} by stream */
    this.cards = new Map();
    this.enlarged = "";
    this.large = make("img");
    this.caption = make("p");
    const close = make("button", "", "Close");
    close.type = "button";
    close.addEventListener("click", () => dialog.close());
    dialog.append(this.large, make("div", "bar", this.caption, close));
    dialog.addEventListener("close", () => {
      this.enlarged = "";
      this.large.removeAttribute("src");
    });
    this.seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const card = [...this.cards.values()].find(({ item }) => item === target);
        if (card) card.visible = isIntersecting;
      }
      this.update();
    });
    document.addEventListener("visibilitychange", () => this.update());
  }

  clear() {
    this.cards.clear();
    this.list.replaceChildren();
  }

  update() {
    for (const stream of this.model.streams.values()) {
      if (!stream.media) continue;
      const card = this.cards.get(keyOf(stream)) ?? this.addCard(stream);
      if (card.visible && !document.hidden && card.shown !== stream.media.id) this.load(card, stream.media.id);
      if (this.enlarged === card.key) this.enlarge(stream);
    }
    this.tick();
  }

  tick() {
    for (const card of this.cards.values()) {
      const stream = this.model.streams.get(card.key);
      if (!stream?.media) continue;
      setText(card.age, ageText(this.model.now() - stream.media.time_ms));
      card.item.classList.toggle("old", this.model.isOld(stream, stream.media.time_ms));
    }
  }

  /** @param {Card} card @param {string} id */
  load(card, id) {
    card.shown = id;
    card.image.src = `/api/v1/thumbnail/${encodeURIComponent(id)}`;
  }

  /** @param {StreamLive} stream */
  enlarge(stream) {
    if (!stream.media) return;
    const source = `/api/v1/media/${encodeURIComponent(stream.media.id)}`;
    if (this.large.getAttribute("src") !== source) this.large.src = source;
    this.large.alt = `${stream.box} ${stream.device}`;
    setText(this.caption, `${stream.box} · ${stream.device} · ${new Date(stream.media.time_ms).toLocaleString()}`);
    if (!this.dialog.open) this.dialog.showModal();
  }

  /** @param {StreamLive} stream @returns {Card} */
  addCard(stream) {
    const key = keyOf(stream);
    const image = make("img");
    image.alt = "";
    image.width = 160;
    image.height = 120;
    const note = make("span", "note");
    const age = make("span", "age");
    image.addEventListener("load", () => setText(note, ""));
    image.addEventListener("error", () => setText(note, "no picture"));
    const button = make(
      "button",
      "camera",
      make("span", "frame", image, note),
      make("span", "caption", make("span", "", `${stream.box} · ${stream.device}`), age),
    );
    button.type = "button";
    button.addEventListener("click", () => {
      const now = this.model.streams.get(key);
      this.enlarged = key;
      if (now) this.enlarge(now);
    });
    const card = { key, item: make("li", "", button), image, note, age, shown: "", visible: false };
    this.cards.set(key, card);
    const after = [...this.cards.keys()].sort().find((other) => other > key);
    this.list.insertBefore(card.item, (after && this.cards.get(after)?.item) || null);
    this.seen.observe(card.item);
    return card;
  }
}

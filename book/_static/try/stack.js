/* A picture with a drawing over it, and boxes in that drawing; buttons and links. */
"use strict";

Object.assign(tryIt, {
  /** A picture with a drawing over it. `fit` gives both a size in pixels. */
  stack(parent, label) {
    const stack = {root: touch.make(parent, "div", {class: "try-stack"})};
    stack.canvas = touch.make(stack.root, "canvas", {role: "img", "aria-label": label});
    stack.context = stack.canvas.getContext("2d", {willReadFrequently: true});
    stack.svg = touch.make(stack.root, "svg", {class: "touch-panel", "aria-hidden": true});
    stack.fit = (width, height) => {
      const wide = Math.min(480, 360 * width / height), high = wide * height / width; // about as many as pixels
      Object.assign(stack.canvas, {width, height});
      stack.root.style.setProperty("--ratio", width / height);
      touch.set(stack.svg, {viewBox: `0 0 ${wide} ${high}`});
      stack.view = touch.view([0, width], [0, height], [0, wide], [0, high]);
      stack.context.imageSmoothingQuality = "high";
    };
    stack.fit(320, 240);
    return stack;
  },

  /** From pixels of the detector's square to those of the picture. */
  sides: ({width, height}) => [width / tryIt.settings.img_size, height / tryIt.settings.img_size],

  /** Frames of boxes over a picture, the first above all others: `look(one)` gives class and, if wanted, `text`. */
  frames(group, view, side, boxes, look) {
    group.replaceChildren();
    const place = (one) => view.rect(one.box.map((value, k) => value * side[k % 2]));
    const placed = boxes.map((one) => ({...look(one), place: place(one)})).reverse();
    for (const {frame, place} of placed) touch.make(group, "rect", {...place, class: frame});
    for (const {text, place} of placed) if (text) tryIt.tag(group, text, place);
  },

  /** A label on solid ground, above a place or, where the picture ends, in it. */
  tag(group, text, place) {
    const ground = touch.make(group, "rect", {class: "try-ground"});
    const words = touch.make(group, "text", {class: "touch-tag"}, text), {width, height} = words.getBBox();
    const wide = group.ownerSVGElement.viewBox.baseVal.width;
    const x = Math.max(Math.min(place.x, wide - width - 6), 0), y = Math.max(place.y - height, 0);
    touch.set(words, {x: x + 3, y: y + 0.8 * height});
    touch.set(ground, {x, y, width: width + 6, height});
  },

  /** A hint in small letters; [words], or [words|term], lead to the glossary. */
  hint(parent, text) {
    const hint = touch.make(parent, "p", {class: "touch-hint"});
    text.split(/\[(.+?)\]/).forEach((part, k) => {
      const [words, term = words] = part.split("|"), href = `glossary.html#term-${term.replaceAll(" ", "-")}`;
      k % 2 ? tryIt.link(hint, href, words) : hint.append(part);
    });
    return hint;
  },

  /** A link that leaves the reader's scene where it is. */
  link(parent, href, words) {
    const link = touch.make(parent, "a", {href, target: "_blank", rel: "noopener"}, words);
    touch.make(link, "span", {class: "touch-said"}, " (opens a new tab)");
  },

  /** A button. `allow` switches it on and off; off, it keeps the focus and does nothing. */
  button(parent, name, act) {
    const button = touch.make(parent, "button", {type: "button"}, name);
    button.addEventListener("click", () => { if (button.getAttribute("aria-disabled") !== "true") act(); });
    return {allow: (yes) => touch.set(button, {"aria-disabled": !yes})};
  },
});

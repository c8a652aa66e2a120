/* A picture with a drawing over it, and boxes in that drawing. */
"use strict";

Object.assign(tryIt, {
  WIDE: 480, // units of a drawing over a picture

  /** A picture with a drawing over it. `fit` gives both a size in pixels. */
  stack(parent, label) {
    const stack = {root: touch.make(parent, "div", {class: "try-stack"})};
    stack.canvas = touch.make(stack.root, "canvas", {role: "img", "aria-label": label});
    stack.context = stack.canvas.getContext("2d", {willReadFrequently: true});
    stack.svg = touch.make(stack.root, "svg", {class: "touch-panel", role: "group", "aria-label": `${label}: boxes`});
    stack.fit = (width, height) => {
      const high = tryIt.WIDE * height / width;
      Object.assign(stack.canvas, {width, height});
      touch.set(stack.svg, {viewBox: `0 0 ${tryIt.WIDE} ${high}`});
      stack.view = touch.view([0, width], [0, height], [0, tryIt.WIDE], [0, high]);
      stack.context.imageSmoothingQuality = "high";
    };
    stack.fit(320, 240);
    return stack;
  },

  /** From pixels of the detector's square to those of the picture. */
  sides: ({width, height}) => [width / tryIt.settings.img_size, height / tryIt.settings.img_size],

  /** Frames of boxes over a picture: `look(one)` gives class and, if wanted, `text`. */
  frames(group, view, side, boxes, look) {
    group.replaceChildren();
    const placed = boxes.map((one) => ({one, place: view.rect(one.box.map((value, k) => value * side[k % 2]))}));
    for (const {one, place} of placed) touch.make(group, "rect", {...place, class: look(one).frame});
    for (const {one, place} of placed) {
      const {text, tag} = look(one);
      if (!text) continue;
      const x = Math.max(Math.min(place.x + 2, tryIt.WIDE - 7.4 * text.length), 0);
      const y = place.y > 16 ? place.y - 4 : place.y + 14;
      touch.make(group, "text", {x, y, class: `touch-tag ${tag}`}, text);
    }
  },
});

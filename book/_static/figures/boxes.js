/* Boxes that a mouse, a finger or the keyboard moves, and how much two of them overlap. */
"use strict";

Object.assign(touch, {
  /** Hand the way of a pointer on an element to `move(dx, dy, from)`, in pixels of the drawing. */
  drag(element, start, move) {
    // Within SVG, Chromium heeds no `touch-action`: without this the page would take the finger's way for itself.
    element.addEventListener("touchstart", (event) => event.preventDefault(), {passive: false});
    element.addEventListener("pointerdown", (down) => {
      if (down.button || !down.isPrimary) return; // the first finger, or the first button of a mouse
      const svg = element.ownerSVGElement;
      const scale = svg.viewBox.baseVal.width / svg.getBoundingClientRect().width;
      const from = start(down);
      const way = (event) => [event.clientX - down.clientX, event.clientY - down.clientY].map((part) => part * scale);
      const follow = (event) => { if (event.pointerId === down.pointerId) move(...way(event), from); };
      const end = ({pointerId}) => {
        if (pointerId !== down.pointerId) return;
        element.removeEventListener("pointermove", follow);
        element.removeEventListener("lostpointercapture", end);
      };
      element.setPointerCapture(down.pointerId);
      element.addEventListener("pointermove", follow);
      element.addEventListener("lostpointercapture", end);
      element.focus({preventScroll: true});
      down.preventDefault();
    });
  },

  /** Call `act(dx, dy, shift)` for the arrow keys. */
  arrows(element, act) {
    const ways = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    element.addEventListener("keydown", (event) => {
      if (!ways[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
      act(...ways[event.key], event.shiftKey);
      event.preventDefault();
    });
  },

  /** A box to move and, by its corners or with Shift, to resize. `changed(box)` is told; `set(box)` tells it. */
  box(svg, view, {name, box, bounds, step = 1, key = step, least = step, color = "a", changed}) {
    const group = touch.make(svg, "g", {class: `touch-box ink-${color}`, tabindex: 0, role: "application"});
    const face = touch.make(group, "rect", {class: "face"});
    const [x0, y0, x1, y1] = bounds;
    const snap = (value) => +(Math.round(value / step) * step).toFixed(6);
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
    const corners = [[0, 1], [2, 1], [0, 3], [2, 3]].map(([i, j]) => ({i, j}));
    const set = (next) => {
      box = next;
      touch.set(face, view.rect(box));
      for (const {i, j, spot, dot} of corners) {
        touch.set(spot, {x: view.x(box[i]) - 14, y: view.y(box[j]) - 14});
        touch.set(dot, {x: view.x(box[i]) - 4, y: view.y(box[j]) - 4});
      }
      const [left, top, right, bottom] = box.map((value) => +value.toFixed(2));
      const how = "Arrow keys move it, with Shift they change its size.";
      group.setAttribute("aria-label", `${name}: x ${left} to ${right}, y ${top} to ${bottom}. ${how}`);
      group.dataset.box = JSON.stringify(box);
    };
    const tell = (next) => { set(next); changed(box); };
    const move = (dx, dy, [ax, ay, bx, by]) => {
      const left = clamp(snap(ax + dx), x0, x1 - (bx - ax)), top = clamp(snap(ay + dy), y0, y1 - (by - ay));
      tell([left, top, left + bx - ax, top + by - ay].map((value) => +value.toFixed(6)));
    };
    const resize = (dx, dy, from, i, j) => {
      const next = [...from];
      next[i] = i ? clamp(snap(from[2] + dx), from[0] + least, x1) : clamp(snap(from[0] + dx), x0, from[2] - least);
      next[j] = j > 1 ? clamp(snap(from[3] + dy), from[1] + least, y1) : clamp(snap(from[1] + dy), y0, from[3] - least);
      tell(next);
    };
    touch.drag(group, (event) => ({box, corner: corners.find((one) => one.spot === event.target)}), (dx, dy, from) => {
      const {i, j} = from.corner ?? {};
      from.corner ? resize(dx / view.sx, dy / view.sy, from.box, i, j) : move(dx / view.sx, dy / view.sy, from.box);
    });
    touch.arrows(group, (dx, dy, shift) => {
      shift ? resize(dx * key, dy * key, box, 2, 3) : move(dx * key, dy * key, box);
    });
    for (const corner of corners) {
      corner.dot = touch.make(group, "rect", {class: "dot", width: 8, height: 8});
      corner.spot = touch.make(group, "rect", {class: "spot", width: 28, height: 28});
    }
    set(box);
    return {set, group};
  },

  /** Intersection over union of two boxes. */
  iou(a, b) {
    const shared = touch.shared(a, b), area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
    const union = area(a) + area(b) - shared;
    return union > 0 ? shared / union : 0;
  },

  shared(a, b) {
    const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
    return Math.max(width, 0) * Math.max(height, 0);
  },
});

/* Which map of the pyramid a box is read on, and how many of its cells a bin is wide. */
"use strict";

touch.figure("level", (stage, {side, box, k0, least, most, unit, bins, band, sizes}) => {
  const level = (w, h) => Math.min(Math.max(Math.floor(k0 + Math.log2(Math.sqrt(w * h) / unit)), least), most);
  const inks = ["c", "a", "d", "b"]; // of the levels
  const svg = touch.panel(stage, 340, 340, "A box in a large picture");
  const view = touch.view([0, side], [0, side], [2, 338], [2, 338]);
  touch.make(svg, "rect", {...view.rect([0, 0, side, side]), class: "touch-track"});
  touch.make(svg, "text", {x: 10, y: 20, class: "ink-faint"}, `${side} × ${side} pixels`);
  const cells = touch.make(svg, "path", {class: "touch-cells"});
  const parts = touch.make(svg, "path", {class: "touch-bins"});
  const options = {name: "Box", bounds: [0, 0, side, side], step: 1, key: 4, least: sizes[0], color: "faint"};
  const moved = touch.box(svg, view, {...options, box, changed: (next) => { box = next; show(); }});

  const panel = touch.make(stage, "div", {class: "touch-side"});
  const write = touch.readings(panel, ["box", "level", "cells", "a bin is"]);
  const chart = touch.panel(panel, 340, 220, "Cells per bin by the size of the box");
  const ends = [Math.log2(sizes[0]), Math.log2(sizes[1])];
  const plot = touch.view(ends, [9.5, 0], [28, 324], [20, 178]);
  touch.make(chart, "rect", {...plot.rect([ends[0], band[1], ends[1], band[0]]), class: "touch-band"});
  const ticks = [sizes[0], 56, 112, 224, 448, sizes[1]].map(Math.log2);
  const labels = {xlabel: "side of a square of the same area", ylabel: "cells per bin, along the longer side"};
  touch.axes(chart, plot, {...labels, x: ticks, y: [0, 2, 4, 6, 8], sayX: (tick) => String(Math.round(2 ** tick))});
  const looks = ["touch-curve dashed ink-faint", "touch-curve ink-faint"];
  const curves = looks.map((look) => touch.make(chart, "path", {class: look}));
  const mark = touch.make(chart, "circle", {r: 5});
  const announce = touch.announcer(stage);
  const number = (value) => value.toFixed(1);

  /** Lines every `step` from `from` to `to`, in both directions. */
  function lines([x1, y1, x2, y2], [dx, dy], [ox, oy]) {
    const all = [];
    for (let x = ox; x <= x2 + 1e-6; x += dx) if (x >= x1 - 1e-6) all.push(view.path([[x, y1], [x, y2]]));
    for (let y = oy; y <= y2 + 1e-6; y += dy) if (y >= y1 - 1e-6) all.push(view.path([[x1, y], [x2, y]]));
    return all.join("");
  }

  function show() {
    const [x1, y1, x2, y2] = box, [w, h] = [x2 - x1, y2 - y1];
    const k = level(w, h), stride = 2 ** k, root = Math.sqrt(w * h), raw = k0 + Math.log2(root / unit);
    const wide = w / stride / bins, tall = h / stride / bins;
    const corner = [x1, y1, x1 + w / bins, y1 + h / bins], asked = stride * view.sx < 5 ? corner : box;
    touch.set(cells, {d: lines(asked, [stride, stride], [0, 0]), class: `touch-cells ink-${inks[k - least]}`});
    touch.set(parts, {d: lines(box, [w / bins, h / bins], [x1, y1])});
    touch.set(moved.group, {class: `touch-box ink-${inks[k - least]}`});
    touch.set(mark, {cx: plot.x(Math.log2(root)), cy: plot.y(Math.min(Math.max(wide, tall), 9.5))});
    touch.set(mark, {class: `touch-spot ink-${inks[k - least]}`});
    const stretch = Math.sqrt(Math.max(w, h) / Math.min(w, h));
    const steps = Array.from({length: 401}, (_, n) => ends[0] + ((ends[1] - ends[0]) * n) / 400);
    const along = (log, by) => Math.min((2 ** log * by) / 2 ** level(2 ** log, 2 ** log) / bins, 9.5);
    [1, stretch].forEach((by, n) => touch.set(curves[n], {d: plot.path(steps.map((log) => [log, along(log, by)]))}));
    write("box", `${w} × ${h}, as large as a square of ${Math.round(root)}`);
    const kept = k > Math.floor(raw) ? ", at least" : k < Math.floor(raw) ? ", at most" : "";
    write("level", `⌊${raw.toFixed(2)}⌋${kept ? `${kept} ${k}` : ""}: P${k}, stride ${stride}`);
    write("cells", `${number(w / stride)} × ${number(h / stride)}`);
    write("a bin is", `${number(wide)} × ${number(tall)} cells`);
    announce(`P${k}, a bin is ${number(wide)} by ${number(tall)} cells`);
  }

  const hint = "Drag the box or its corners, or use the arrow keys (with Shift they resize it). Thick lines are " +
    "its bins, thin ones the cells of its level (where they are small, in the first bin alone). " +
    "The curve is for boxes of its shape, the dashed one for squares.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  show();
});

/* How the part of the picture that a cell can see grows from layer to layer. */
"use strict";

touch.figure("field", (stage, {picture, side, layers, at, place}) => {
  const svg = touch.panel(stage, 340, 340, "A picture and the field of one cell");
  const view = touch.view([0, side], [0, side], [0, 340], [0, 340]);
  touch.make(svg, "image", {href: picture, width: 340, height: 340, class: "touch-pale"});
  const grid = touch.make(svg, "path", {class: "touch-grid"});
  const seen = touch.make(svg, "rect", {class: "touch-seen"});
  const knob = touch.make(svg, "g", {class: "touch-knob ink-b", tabindex: 0, role: "application"});
  const cell = touch.make(knob, "rect", {class: "ring"});
  const hold = touch.make(knob, "circle", {class: "spot", r: 22});

  /** After so many layers: the side of the field, and the stride, both in pixels. */
  function field(count) {
    let [r, j] = [1, 1];
    for (const {kernel, stride} of layers.slice(0, count)) [r, j] = [r + (kernel - 1) * j, j * stride];
    return {r, j};
  }

  const panel = touch.make(stage, "div", {class: "touch-side"});
  const say = (count) => (count ? layers[count - 1].name : "picture");
  const which = {label: "layer", min: 0, max: layers.length, step: 1, value: at, say};
  touch.slider(panel, {...which, act: (value) => { at = value; show(); }});
  const write = touch.readings(panel, ["kernel", "field", "stride", "cell"]);
  const chart = touch.panel(panel, 340, 200, "Side of the field by layer");
  const fields = [0, ...layers.map((_, k) => k + 1)].map((count) => field(count).r);
  const plot = touch.view([0, layers.length], [1.06 * fields.at(-1), 0], [36, 324], [20, 158]);
  const ticks = [0, ...layers.flatMap(({last}, k) => (last ? [k + 1] : []))];
  const sayX = (count) => (count ? layers[count - 1].last : "0");
  const words = {xlabel: "layer", ylabel: "side of the field in pixels"};
  touch.axes(chart, plot, {...words, x: ticks, y: [0, 100, 200, 300, 400], sayX});
  const curve = fields.map((r, count) => [count, r]);
  touch.make(chart, "path", {d: plot.path(curve), class: "touch-curve ink-a"});
  const dot = touch.make(chart, "circle", {r: 5, class: "touch-spot ink-a"});
  const announce = touch.announcer(stage);

  function go(x, y) {
    place = [x, y].map((value) => Math.min(Math.max(value, 0), side - 1));
    show();
  }

  function show() {
    const {r, j} = field(at), before = field(Math.max(at - 1, 0)), cells = Math.ceil(side / j);
    const [column, row] = place.map((value) => Math.min(Math.floor(value / j), cells - 1));
    const [x, y] = [column, row].map((index) => (index + 0.5) * j);
    const lines = j < 4 ? [] : Array.from({length: cells + 1}, (_, k) => k * j);
    const cross = lines.flatMap((at) => [view.path([[at, 0], [at, side]]), view.path([[0, at], [side, at]])]);
    touch.set(grid, {d: cross.join("")});
    touch.set(seen, view.rect([x - r / 2, y - r / 2, x + r / 2, y + r / 2]));
    touch.set(cell, view.rect([x - j / 2, y - j / 2, x + j / 2, y + j / 2]));
    touch.set(hold, {cx: view.x(x), cy: view.y(y)});
    touch.set(dot, {cx: plot.x(at), cy: plot.y(r)});
    const layer = layers[at - 1];
    write("kernel", layer ? `${layer.kernel} × ${layer.kernel}, stride ${layer.stride}` : "none: a cell is a pixel");
    write("field", layer ? `${before.r} + (${layer.kernel} − 1) · ${before.j} = ${r} pixels` : "1 pixel");
    write("stride", layer ? `${layer.stride} · ${before.j} = ${j} pixels` : "1 pixel");
    write("cell", `row ${row}, column ${column}`);
    knob.setAttribute("aria-label", `Cell in row ${row}, column ${column}. Arrow keys choose another.`);
    announce(`${say(at)}: a cell sees ${r} pixels`);
  }

  touch.drag(knob, () => place, (dx, dy, [x, y]) => go(x + dx / view.sx, y + dy / view.sy));
  touch.arrows(knob, (dx, dy) => go(place[0] + dx * field(at).j, place[1] + dy * field(at).j));
  const hint = "The bright square is what the orange cell can see. Go through the layers, and drag the cell " +
    "(or use arrow keys). The 1 × 1 convolutions are left out, for they add nothing.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  show();
});

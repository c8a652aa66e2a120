/* A reference box, a true box, and the four numbers that lead from one to the other. */
"use strict";

touch.figure("deltas", (stage, {anchor, truth, frame, limit}) => {
  const center = ([x1, y1, x2, y2]) => [(x1 + x2) / 2, (y1 + y2) / 2];
  const sides = ([x1, y1, x2, y2]) => [x2 - x1, y2 - y1];
  const [ca, sa] = [center(anchor), sides(anchor)];
  const number = (value, digits = 1) => String(+value.toFixed(digits) + 0).replace("-", "−");
  const [x0, y0, x1, y1] = frame;

  const svg = touch.panel(stage, 364, 336, "An anchor and a true box");
  const view = touch.view([x0, x1], [y0, y1], [34, 354], [24, 24 + (320 * (y1 - y0)) / (x1 - x0)]);
  touch.make(svg, "rect", {...view.rect(frame), class: "touch-track"});
  const tens = (from, to) => Array.from({length: Math.floor((to - from) / 10) + 1}, (_, k) => from + 10 * k);
  touch.axes(svg, view, {x: tens(x0, x1), y: tens(y0, y1).reverse(), xlabel: "x in pixels", ylabel: "y", say: number});
  touch.make(svg, "rect", {...view.rect(anchor), class: "touch-still ink-a"});
  const above = {x: view.x(anchor[0]), y: view.y(anchor[1]) - 6, class: "ink-a"};
  touch.make(svg, "text", above, `anchor, ${sa.join(" × ")}`);
  const options = {name: "True box", box: truth, bounds: frame, step: 0.5, key: 1, least: 6, color: "b"};
  const box = touch.box(svg, view, {...options, changed: (next) => encode(next)});
  const way = touch.make(svg, "path", {class: "touch-way", fill: "none"});
  const spot = touch.make(svg, "circle", {r: 4, class: "touch-spot ink-a"});

  const side = touch.make(stage, "div", {class: "touch-side", style: "--label: 1.8rem"});
  const say = touch.announcer(stage);
  let deltas = [0, 0, 0, 0];
  const rows = ["x", "y", "w", "h"].map((letter, k) => {
    const act = (value) => { deltas = deltas.map((old, j) => (j === k ? value : old)); decode(); };
    const words = (value) => number(value, 2);
    const row = touch.slider(side, {label: "t", min: -limit, max: limit, step: 0.01, value: 0, say: words, act});
    touch.make(row.name, "sub", {}, letter);
    return {...row, formula: touch.make(side, "p", {class: "touch-formula"})};
  });

  function encode(next) {
    const [c, s] = [center(next), sides(next)];
    deltas = [0, 1].map((k) => (c[k] - ca[k]) / sa[k]).concat([0, 1].map((k) => Math.log(s[k] / sa[k])));
    show(next);
  }

  function decode() {
    const c = [0, 1].map((k) => ca[k] + deltas[k] * sa[k]), s = [0, 1].map((k) => sa[k] * Math.exp(deltas[k + 2]));
    const next = [c[0] - s[0] / 2, c[1] - s[1] / 2, c[0] + s[0] / 2, c[1] + s[1] / 2];
    box.set(next);
    show(next);
  }

  /** A line from one point to another, with a head. */
  function arrow([ax, ay], [bx, by]) {
    const turn = Math.atan2(by - ay, bx - ax), size = Math.min(9, Math.hypot(bx - ax, by - ay));
    const wing = (side) => `${bx - size * Math.cos(turn + side)} ${by - size * Math.sin(turn + side)}`;
    return `M${ax} ${ay}L${bx} ${by}M${wing(0.5)}L${bx} ${by}L${wing(-0.5)}`;
  }

  function show(next) {
    const [c, s] = [center(next), sides(next)];
    rows.forEach((row, k) => {
      row.set(deltas[k]);
      const axis = k % 2, shift = () => `(${number(c[axis])} − ${number(ca[axis])}) / ${sa[axis]}`;
      const what = k < 2 ? shift() : `ln(${number(s[axis])} / ${sa[axis]})`;
      row.formula.textContent = `= ${what} = ${number(deltas[k], 2)}`;
    });
    touch.set(spot, {cx: view.x(ca[0]), cy: view.y(ca[1])});
    touch.set(way, {d: arrow([view.x(ca[0]), view.y(ca[1])], [view.x(c[0]), view.y(c[1])])});
    say(`deltas ${deltas.map((value) => number(value, 2)).join(", ")}`);
  }

  const hint = "Drag the orange box or its corners, or set the four numbers. " +
    "With the keyboard: arrows move the box, with Shift they resize it.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  encode(truth);
});

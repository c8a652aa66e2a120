/* A loss and its slope under a prediction that moves: cross-entropy for a name, smooth L1 for a number. */
"use strict";

touch.figure("losses", (stage, {beta, classes, logit, error, square}) => {
  const rest = Math.log(classes - 1); // the other classes have the logit 0
  const entropy = {
    loss: (z) => Math.log1p(Math.exp(rest - z)), slope: (z) => -1 / (1 + Math.exp(z - rest)),
  };
  const smooth = {
    loss: (d) => (Math.abs(d) < beta ? (d * d) / (2 * beta) : Math.abs(d) - beta / 2),
    slope: (d) => (Math.abs(d) < beta ? d / beta : Math.sign(d)),
  };
  const plain = {loss: (d) => (d * d) / 2, slope: (d) => d};
  const number = (value, digits = 4) => String(+value.toFixed(digits) + 0).replace("-", "−");
  const say = touch.announcer(stage);

  function chart({name, xlabel, range, ticks, y, value, step, color, own, other}) {
    const part = touch.make(stage, "div", {class: "touch-side"});
    const svg = touch.panel(part, 340, 270, `${name}: loss and slope`);
    const view = touch.view(range, [y.at(-1), y[0]], [30, 330], [20, 228]);
    touch.axes(svg, view, {x: ticks, y, xlabel, say: number});
    const xs = Array.from({length: 301}, (_, k) => range[0] + ((range[1] - range[0]) * k) / 300);
    const inside = (f) => xs.map((x) => [x, f(x)]).filter(([, v]) => v >= y[0] - 1e-9 && v <= y.at(-1) + 1e-9);
    for (const [curve, ink] of [[other, "faint"], [own, color]].filter(([curve]) => curve)) {
      touch.make(svg, "path", {d: view.path(inside(curve.loss)), class: `touch-curve ink-${ink}`});
      touch.make(svg, "path", {d: view.path(inside(curve.slope)), class: `touch-curve dashed ink-${ink}`});
    }
    touch.make(svg, "text", {x: 180, y: 13, "text-anchor": "middle", class: `ink-${color}`}, name);
    const tangent = touch.make(svg, "path", {class: "touch-way"});
    const mark = touch.make(svg, "circle", {r: 4, class: `touch-spot ink-${color}`});
    const knob = touch.make(svg, "g", {class: `touch-knob ink-${color}`, tabindex: 0, role: "slider"});
    touch.set(knob, {"aria-label": xlabel, "aria-valuemin": range[0], "aria-valuemax": range[1]});
    touch.make(knob, "circle", {r: 22, class: "spot"});
    touch.make(knob, "circle", {r: 8, class: "ring"});
    const names = [name === "cross-entropy" ? "logit" : "error", "loss", "slope", ...(other ? ["of the square"] : [])];
    const write = touch.readings(part, names);

    function go(next) {
      value = +Math.min(Math.max(Math.round(next / step) * step, range[0]), range[1]).toFixed(6);
      const loss = own.loss(value), slope = own.slope(value);
      const half = 32 / Math.hypot(view.sx, slope * view.sy); // of the tangent, 32 pixels long on either side
      const ends = [-half, half].map((dx) => [value + dx, loss + slope * dx]);
      touch.set(tangent, {d: view.path(ends)});
      touch.set(mark, {cx: view.x(value), cy: view.y(slope)});
      knob.setAttribute("transform", `translate(${view.x(value)} ${view.y(loss)})`);
      write(names[0], number(value, 2));
      write("loss", number(loss));
      write("slope", number(slope, 3));
      if (other) write("of the square", `loss ${number(other.loss(value))}, slope ${number(other.slope(value), 3)}`);
      const text = `${number(value, 2)}: loss ${number(loss)}, slope ${number(slope, 3)}`;
      touch.set(knob, {"aria-valuenow": value, "aria-valuetext": text});
      say(`${name} at ${text}`);
    }

    touch.drag(knob, () => value, (dx, dy, from) => go(from + dx / view.sx));
    touch.arrows(knob, (dx, dy, shift) => go(value + (dx - dy) * step * (shift ? 10 : 1)));
    go(value);
  }

  chart({
    name: "cross-entropy", xlabel: "logit of the right class, the others' are 0", value: logit, step: 0.05, color: "a",
    range: [-3, 5], ticks: [-3, -1, 1, 3, 5], y: [-1, 0, 1, 2, 3, 4], own: entropy,
  });
  chart({
    name: "smooth L1", xlabel: "error of a delta", value: error, step: 0.01, color: "b",
    range: [-2, 2], ticks: [-2, -1, 0, 1, 2], y: [-2, -1, 0, 1, 2], own: smooth, other: square ? plain : null,
  });
  const hint = "Solid is the loss, dashed its slope; gray is the square. Drag a ring along its curve, or use " +
    "the arrow keys (with Shift: larger steps).";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
});

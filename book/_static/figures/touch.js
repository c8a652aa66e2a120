/* What the figures that a reader can touch share: their place, panels, boxes to move, sliders, numbers and curves.

   Plain deferred scripts, for browsers load no ES modules from the disk, and the site has to work there, too. */
"use strict";

const touch = {
  /** Let `build(stage, data)` take over each figure of this name. Its picture stays, for print and for failures. */
  figure(name, build) {
    for (const figure of document.querySelectorAll(`figure.touch-${name}`)) {
      const stage = touch.make(figure, "div", {class: "touch-stage"});
      figure.prepend(stage);
      try {
        build(stage, JSON.parse(figure.querySelector("script[type='application/json']").textContent));
        figure.classList.add("live");
      } catch (error) {
        stage.remove();
        throw error;
      }
    }
  },

  /** Add an element; those of a drawing are SVG, like their parent. */
  make(parent, tag, attributes = {}, text = "") {
    const svg = tag === "svg" || (parent.namespaceURI.endsWith("svg") && parent.tagName !== "foreignObject");
    const element = document.createElementNS(svg ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", tag);
    touch.set(element, attributes);
    if (text) element.textContent = text;
    return parent.appendChild(element);
  },

  set(element, attributes) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  },

  /** A drawing of at most `width` pixels, so that its words keep their size on a phone; panels stand side by side. */
  panel(parent, width, height, label) {
    const look = {class: "touch-panel", viewBox: `0 0 ${width} ${height}`, style: `max-width: ${width}px`};
    return touch.make(parent, "svg", {...look, role: "group", "aria-label": label});
  },

  /** From units of the subject to pixels of a panel: [left, right] and [top, bottom] of both. */
  view([x0, x1], [y0, y1], [left, right], [top, bottom]) {
    const view = {
      sx: (right - left) / (x1 - x0), sy: (bottom - top) / (y1 - y0),
      x: (x) => left + (x - x0) * view.sx, y: (y) => top + (y - y0) * view.sy,
      rect: ([ax, ay, bx, by]) => ({
        x: view.x(ax), y: view.y(ay), width: Math.max(0, bx - ax) * view.sx, height: Math.max(0, by - ay) * view.sy,
      }),
      path: (points) => "M" + points.map(([x, y]) => `${view.x(x).toFixed(2)} ${view.y(y).toFixed(2)}`).join("L"),
    };
    return view;
  },

  /** A labeled slider. `act(value)` is told; `set(value)` tells it. `say` writes its value in words. */
  slider(parent, {label, min, max, step, value, say = String, act}) {
    const row = touch.make(parent, "label", {class: "touch-slider"});
    const name = touch.make(row, "span", {}, label);
    const input = touch.make(row, "input", {type: "range", min, max, step, value});
    const output = touch.make(row, "span", {class: "value", "aria-hidden": true}); // the value text says it
    const set = (next) => {
      input.value = next;
      output.textContent = say(next);
      input.setAttribute("aria-valuetext", say(next));
    };
    input.addEventListener("input", () => { set(+input.value); act(+input.value); });
    set(value);
    return {set, input, name};
  },

  /** A list of named numbers; the function that comes back writes one of them. */
  readings(parent, names) {
    const list = touch.make(parent, "div", {class: "touch-readings"});
    const places = names.map((name) => (touch.make(list, "span", {}, name), touch.make(list, "b")));
    return (name, text) => { places[names.indexOf(name)].textContent = text; };
  },

  /** What a screen reader hears once the reader's hand rests; nothing before it has touched the stage. */
  announcer(stage, touched = false) {
    const region = touch.make(stage, "p", {class: "touch-said", "aria-live": "polite"});
    for (const kind of ["input", "keydown", "pointerdown", "click"]) {
      stage.addEventListener(kind, () => { touched = true; }, {capture: true, once: true});
    }
    let timer;
    return (text) => {
      clearTimeout(timer);
      if (!touched) return;
      timer = setTimeout(() => { if (region.textContent !== text) region.textContent = text; }, 500);
    };
  },

  /** A chart of precision against recall; the function that comes back draws it down a list, and returns AP. */
  ranking(svg) {
    const view = touch.view([0, 1], [1, 0], [34, 326], [22, 250]), ticks = [0, 0.25, 0.5, 0.75, 1];
    touch.axes(svg, view, {x: ticks, y: ticks, xlabel: "recall", ylabel: "precision"});
    const area = touch.make(svg, "path", {class: "touch-area ink-a"});
    const best = touch.make(svg, "path", {class: "touch-curve ink-a"});
    const walk = touch.make(svg, "path", {class: "touch-curve dashed ink-b"});
    const dot = touch.make(svg, "circle", {class: "touch-spot ink-b"});
    const edges = (k) => [Math.max(0.01 * k - 0.005, 0), Math.min(0.01 * k + 0.005, 1)];
    return (hits, objects) => {
      let right = 0;
      const points = hits.map((hit, k) => [(right += hit) / objects, right / (k + 1)]);
      const tops = Array.from({length: 101}, (_, k) => { // at each recall the best that is reached there or later
        return points.reduce((most, [recall, value]) => (recall >= 0.01 * k ? Math.max(most, value) : most), 0);
      });
      const steps = tops.flatMap((top, k) => edges(k).map((recall) => [recall, top]));
      touch.set(best, {d: view.path(steps)});
      touch.set(area, {d: `${view.path(steps)}L${view.x(1)} ${view.y(0)}L${view.x(0)} ${view.y(0)}Z`});
      touch.set(walk, {d: points.length ? view.path(points) : ""});
      const [recall, precision] = points.at(-1) ?? [];
      touch.set(dot, points.length ? {cx: view.x(recall), cy: view.y(precision), r: 5} : {r: 0});
      return {right, ap: tops.reduce((sum, top) => sum + top, 0) / 101};
    };
  },

  /** Axes of a chart: ticks, and what they measure. */
  axes(svg, view, {x, y, xlabel = "", ylabel = "", say = String, sayX = say}) {
    const group = touch.make(svg, "g", {class: "touch-axes"});
    const [left, right] = [x[0], x.at(-1)].map(view.x), [bottom, top] = [y[0], y.at(-1)].map(view.y);
    for (const tick of x) {
      touch.make(group, "line", {x1: view.x(tick), x2: view.x(tick), y1: top, y2: bottom});
      touch.make(group, "text", {x: view.x(tick), y: bottom + 16, "text-anchor": "middle"}, sayX(tick));
    }
    for (const tick of y) {
      touch.make(group, "line", {x1: left, x2: right, y1: view.y(tick), y2: view.y(tick)});
      touch.make(group, "text", {x: left - 6, y: view.y(tick) + 4, "text-anchor": "end"}, say(tick));
    }
    touch.make(group, "text", {x: (left + right) / 2, y: bottom + 33, "text-anchor": "middle"}, xlabel);
    touch.make(group, "text", {x: left, y: top - 8}, ylabel);
  },
};

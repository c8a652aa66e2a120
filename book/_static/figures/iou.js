/* Two boxes and their overlap. */
"use strict";

touch.figure("iou", (stage, {a, b, size, marks}) => {
  const [columns, rows] = size;
  const number = (value) => String(+value.toFixed(2));
  const svg = touch.panel(stage, 352, 268, "Two boxes on a grid");
  const view = touch.view([0, columns], [0, rows], [22, 342], [10, 250]);
  const grid = touch.make(svg, "g", {class: "touch-axes"});
  for (let x = 0; x <= columns; x++) {
    touch.make(grid, "line", {x1: view.x(x), x2: view.x(x), y1: view.y(0), y2: view.y(rows)});
    touch.make(grid, "text", {x: view.x(x), y: view.y(rows) + 14, "text-anchor": "middle"}, String(x));
  }
  for (let y = 0; y <= rows; y++) {
    touch.make(grid, "line", {x1: view.x(0), x2: view.x(columns), y1: view.y(y), y2: view.y(y)});
    touch.make(grid, "text", {x: view.x(0) - 6, y: view.y(y) + 4, "text-anchor": "end"}, String(y));
  }

  const side = touch.make(stage, "div", {class: "touch-side"});
  const write = touch.readings(side, ["intersection", "union", "IoU"]);
  const gauge = touch.panel(side, 320, 40, "IoU from 0 to 1");
  const scale = touch.view([0, 1], [0, 1], [12, 308], [22, 36]);
  touch.make(gauge, "rect", {...scale.rect([0, 0, 1, 1]), class: "touch-track"});
  const filled = touch.make(gauge, "rect", {class: "touch-filled ink-c"});
  for (const mark of marks) {
    touch.make(gauge, "line", {x1: scale.x(mark), x2: scale.x(mark), y1: 18, y2: 40, class: "touch-mark"});
    touch.make(gauge, "text", {x: scale.x(mark), y: 13, "text-anchor": "middle"}, String(mark));
  }
  const say = touch.announcer(stage);
  const options = {bounds: [0, 0, columns, rows], step: 0.1, key: 0.5, least: 0.5};
  const moved = {a: (box) => { a = box; show(); }, b: (box) => { b = box; show(); }};
  const boxA = touch.box(svg, view, {...options, name: "Box a", box: a, color: "a", changed: moved.a});
  const boxB = touch.box(svg, view, {...options, name: "Box b", box: b, color: "b", changed: moved.b});
  const common = touch.make(svg, "rect", {class: "touch-common ink-c"});
  const letters = ["a", "b"].map((name) => touch.make(svg, "text", {class: `ink-${name} touch-letter`}, name));

  function show() {
    const inside = [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];
    const [width, height] = [inside[2] - inside[0], inside[3] - inside[1]];
    const shared = touch.shared(a, b), iou = touch.iou(a, b);
    const areas = [a, b].map(([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1));
    const union = areas[0] + areas[1] - shared;
    write("intersection", shared > 0 ? `${number(width)} × ${number(height)} = ${number(shared)}` : "none: 0");
    write("union", `${number(areas[0])} + ${number(areas[1])} − ${number(shared)} = ${number(union)}`);
    write("IoU", `${number(shared)} / ${number(union)} = ${iou.toFixed(3)}`);
    touch.set(common, shared > 0 ? view.rect(inside) : {width: 0, height: 0});
    touch.set(filled, scale.rect([0, 0, iou, 1]));
    [a, b].forEach((box, k) => touch.set(letters[k], {
      x: view.x(k ? box[2] : box[0]) + (k ? -16 : 8), y: view.y(k ? box[1] : box[3]) + (k ? 18 : -8),
    }));
    say(`IoU ${iou.toFixed(2)}`);
  }

  const row = touch.make(side, "div", {class: "touch-row"});
  touch.make(row, "span", {}, "Show IoU");
  for (const mark of marks) {
    touch.make(row, "button", {type: "button"}, String(mark)).addEventListener("click", () => {
      const shift = 4 * (1 - Math.sqrt((2 * mark) / (1 + mark))); // of two squares of 4, the same along both axes
      a = [1, 0.5, 5, 4.5];
      b = a.map((edge) => edge + shift);
      boxA.set(a);
      boxB.set(b);
      show();
    });
  }
  const hint = "Drag a box or one of its corners. With the keyboard: arrows move a box, with Shift they resize it.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  show();
});

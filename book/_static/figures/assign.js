/* Every anchor of a scene, and what the two thresholds make of it. */
"use strict";

touch.figure("assign", (stage, {picture, side, names, boxes, sizes, strides, ratios, positive, negative}) => {
  const anchors = strides.flatMap((stride, level) => {
    const cells = Math.ceil(side / stride), shapes = ratios.map((ratio) => Math.sqrt(ratio));
    return Array.from({length: cells * cells * shapes.length}, (_, n) => {
      const cell = Math.floor(n / shapes.length), root = shapes[n % shapes.length];
      const x = ((cell % cells) + 0.5) * stride, y = (Math.floor(cell / cells) + 0.5) * stride;
      const [w, h] = [(sizes[level] * root) / 2, sizes[level] / root / 2];
      return [x - w, y - h, x + w, y + h];
    });
  });

  const svg = touch.panel(stage, 340, 340, "Anchors over the scene");
  const view = touch.view([0, side], [0, side], [0, 340], [0, 340]);
  touch.make(svg, "image", {href: picture, width: 340, height: 340, class: "touch-pale"});
  const kinds = ["negative", "ignored", "positive"]; // labels 0, −1 and 1
  const layers = kinds.map((kind) => touch.make(svg, "path", {class: `touch-anchors ${kind}`}));
  const objects = boxes.map((box, k) => {
    const changed = (next) => { boxes[k] = next; show(); };
    const options = {bounds: [0, 0, side, side], step: 1, key: 2, least: 8, color: "d"};
    return touch.box(svg, view, {...options, name: `Object ${names[k]}`, box, changed}).group;
  });
  const found = touch.make(svg, "rect", {class: "touch-found"});

  const panel = touch.make(stage, "div", {class: "touch-side"});
  const words = (value) => value.toFixed(2);
  const range = {min: 0.05, max: 0.95, step: 0.05, say: words};
  const rule = (below, from) => {
    [negative, positive] = [below, from];
    low.set(negative);
    high.set(positive);
    show();
  };
  const low = touch.slider(panel, {
    ...range, label: "negative below", value: negative, act: (v) => rule(v, Math.max(positive, v)),
  });
  const high = touch.slider(panel, {
    ...range, label: "positive from", value: positive, act: (v) => rule(Math.min(negative, v), v),
  });
  const row = touch.make(panel, "div", {class: "touch-row"});
  kinds.toReversed().forEach((kind, k) => {
    const label = touch.make(row, "label", {}), box = touch.make(label, "input", {type: "checkbox"});
    const layer = layers[2 - k], show = () => { layer.style.display = box.checked ? "" : "none"; };
    touch.make(label, "span", {}, ` ${kind}`);
    box.checked = kind !== "negative";
    box.addEventListener("change", show);
    show();
  });
  const pointer = touch.slider(panel, {
    label: "point at", min: 0, max: 1, step: 1, value: 0, say: (n) => (n ? `no. ${n}` : "none"),
    act: (n) => { pointed = n ? asked[n - 1] : null; point(); },
  });
  const write = touch.readings(panel, [...kinds.toReversed(), ...names, "pointed at"]);
  const say = touch.announcer(stage);
  let overlaps, labels, asked, pointed = null;

  /** The rules: labels 1, 0 and −1, and for each object its best overlap. */
  function assign() {
    overlaps = anchors.map((anchor) => boxes.map((box) => touch.iou(anchor, box)));
    const best = boxes.map((_, k) => overlaps.reduce((most, row) => Math.max(most, row[k]), 0));
    labels = overlaps.map((row) => {
      const most = Math.max(...row);
      if (most >= positive || row.some((value, k) => value > 0 && value > best[k] - 1e-7)) return 1;
      return most < negative ? 0 : -1;
    });
    return best;
  }

  function outline(kind) {
    const rect = ([x1, y1, x2, y2]) => view.path([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) + "Z";
    const drawn = (n) => labels[n] === kind && (kind || Math.max(...overlaps[n]) > 0.1);
    const all = anchors.filter((_, n) => drawn(n)), every = kind ? 1 : Math.ceil(all.length / 60);
    return all.filter((_, n) => n % every === 0).map(rect).join("");
  }

  function show() {
    const best = assign(), count = (kind) => labels.filter((label) => label === kind).length;
    [0, -1, 1].forEach((kind, k) => touch.set(layers[k], {d: outline(kind)}));
    write("positive", count(1).toLocaleString("en"));
    write("ignored", count(-1).toLocaleString("en"));
    write("negative", count(0).toLocaleString("en"));
    names.forEach((name, k) => {
      const how = best[k] >= positive ? "reached" : best[k] > 0 ? "forced" : "nobody answers";
      write(name, `best IoU ${best[k].toFixed(2)}, ${how}`);
      objects[k].classList.toggle("forced", best[k] < positive);
    });
    const most = overlaps.map((row) => Math.max(...row));
    asked = anchors.map((_, n) => n).filter((n) => labels[n] !== 0).sort((m, n) => most[n] - most[m]);
    pointer.input.max = asked.length;
    pointed = null;
    point();
    say(`${count(1)} positive, ${count(-1)} ignored`);
  }

  function point() {
    pointer.set(asked.indexOf(pointed) + 1);
    touch.set(found, pointed === null ? {width: 0, height: 0} : view.rect(anchors[pointed]));
    if (pointed === null) return write("pointed at", "no anchor");
    const row = overlaps[pointed], most = Math.max(...row), kind = labels[pointed] === 1 ? "positive" : "ignored";
    write("pointed at", `${kind}, ${names[row.indexOf(most)]}, IoU ${most.toFixed(2)}`);
  }

  /** Point at the anchor, of those that are positive or ignored, whose edge is nearest. */
  function look(event) {
    if (event.type === "pointermove" && event.buttons) return;
    const frame = svg.getBoundingClientRect(), scale = side / frame.width;
    const x = (event.clientX - frame.left) * scale, y = (event.clientY - frame.top) * scale;
    let near = 6;
    pointed = null;
    for (const n of asked) {
      const [x1, y1, x2, y2] = anchors[n], dx = Math.max(x1 - x, 0, x - x2), dy = Math.max(y1 - y, 0, y - y2);
      const edge = dx || dy ? Math.hypot(dx, dy) : Math.min(x - x1, x2 - x, y - y1, y2 - y);
      if (edge < near) [near, pointed] = [edge, n];
    }
    point();
  }
  svg.addEventListener("pointermove", look);
  svg.addEventListener("pointerdown", look);

  const hint = "Green anchors are positive, yellow ones ignored, blue ones negative (some sixty of those above 0.1). " +
    "Drag an object (pink; dotted while its anchor is forced), or move it by arrow keys, with Shift resize it. " +
    "Point at the edge of an anchor.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  show();
});

/* The scene: a ground, glyphs that a hand moves, scales and turns on it, and the pixels that the detector gets. */
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

  /** A scene in `parent`. `changed()` is told when its pixels are others. */
  scene(parent, changed) {
    const stack = tryIt.stack(parent, "the scene"), {svg, canvas, context} = stack;
    stack.root.classList.add("try-scene");
    const marks = touch.make(svg, "g"), hands = touch.make(svg, "g");
    const row = touch.make(parent, "div", {class: "touch-row", role: "group", "aria-label": "the chosen glyph"});
    let ground, glyphs = [], chosen = null;
    const acts = {
      larger: () => change({side: chosen.side * 1.15}), smaller: () => change({side: chosen.side / 1.15}),
      "turn left": () => change({turn: chosen.turn - 10}), "turn right": () => change({turn: chosen.turn + 10}),
      "to the front": () => { glyphs = [...glyphs.filter((one) => one !== chosen), chosen]; build(); },
      remove: () => { glyphs = glyphs.filter((one) => one !== chosen); chosen = glyphs.at(-1) ?? null; build(); },
    };
    const buttons = Object.entries(acts).map(([name, act]) => {
      const button = touch.make(row, "button", {type: "button"}, name);
      button.addEventListener("click", act);
      return button;
    });

    const scale = ({image, side}) => side / Math.max(image.naturalWidth, image.naturalHeight);
    const half = (one) => [one.image.naturalWidth, one.image.naturalHeight].map((size) => size * scale(one) / 2);
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

    /** Change the chosen glyph, within the scene. */
    function change(to) {
      const one = Object.assign(chosen, to), most = Math.max(canvas.width, canvas.height);
      one.x = clamp(one.x, 0, canvas.width);
      one.y = clamp(one.y, 0, canvas.height);
      one.side = clamp(one.side, most / 20, most);
      one.turn = ((one.turn + 180) % 360 + 360) % 360 - 180;
      draw();
    }

    function choose(one) {
      chosen = one;
      for (const other of glyphs) other.hand.classList.toggle("chosen", other === one);
      for (const button of buttons) button.disabled = !one;
    }

    /** A hand for one glyph: its face moves it, its corner scales and turns it. */
    function grip(one) {
      const hand = touch.make(hands, "g", {class: "touch-box ink-e", tabindex: 0, role: "application"});
      const face = touch.make(hand, "rect", {class: "face"});
      const dot = touch.make(hand, "circle", {class: "dot", r: 5});
      const spot = touch.make(hand, "circle", {class: "spot", r: 16});
      const start = ({target}) => ({...one, corner: target === spot ? corner(one) : null});
      touch.drag(hand, start, (dx, dy, from) => {
        const [x, y] = [dx / stack.view.sx, dy / stack.view.sy];
        if (!from.corner) return change({x: from.x + x, y: from.y + y});
        const [cx, cy] = from.corner, angle = Math.atan2(cy + y, cx + x) - Math.atan2(cy, cx);
        const side = from.side * Math.hypot(cx + x, cy + y) / Math.hypot(cx, cy);
        change({side, turn: from.turn + angle * 180 / Math.PI});
      });
      touch.arrows(hand, (dx, dy, shift) => {
        const {x, y, side, turn} = one;
        change(shift ? {side: side * (1 - 0.05 * dy), turn: turn + 5 * dx} : {x: x + 4 * dx, y: y + 4 * dy});
      });
      hand.addEventListener("focus", () => choose(one));
      hand.addEventListener("keydown", ({key}) => { if (key === "Delete" || key === "Backspace") acts.remove(); });
      return Object.assign(one, {hand, face, dot, spot});
    }

    /** From a glyph's middle to its lower right corner, in pixels of the scene. */
    function corner(one) {
      const [w, h] = half(one), angle = one.turn * Math.PI / 180, [sin, cos] = [Math.sin(angle), Math.cos(angle)];
      return [w * cos - h * sin, w * sin + h * cos];
    }

    function build() {
      hands.replaceChildren();
      glyphs.forEach(grip);
      choose(glyphs.includes(chosen) ? chosen : null);
      chosen?.hand.focus({preventScroll: true});
      draw();
    }

    /** What a glyph is and where, and its hand there. */
    function place(one) {
      const {view} = stack, [w, h] = half(one), at = `translate(${view.x(one.x)} ${view.y(one.y)}) rotate(${one.turn})`;
      const how = "Arrow keys move it; with Shift, up and down scale it, left and right turn it. Delete removes it.";
      const [x, y, side, turn] = [one.x, one.y, one.side, one.turn].map(Math.round);
      const where = `x ${x}, y ${y}, ${side} pixels, ${turn}°`;
      touch.set(one.hand, {transform: at, "aria-label": `${one.name}: ${where}. ${how}`});
      touch.set(one.face, {x: -w * view.sx, y: -h * view.sy, width: 2 * w * view.sx, height: 2 * h * view.sy});
      for (const part of [one.dot, one.spot]) touch.set(part, {cx: w * view.sx, cy: h * view.sy});
    }

    function draw() {
      context.drawImage(ground, 0, 0, canvas.width, canvas.height);
      for (const one of glyphs) {
        const [w, h] = half(one);
        context.save();
        context.translate(one.x, one.y);
        context.rotate(one.turn * Math.PI / 180);
        context.drawImage(one.image, -w, -h, 2 * w, 2 * h);
        context.restore();
        place(one);
      }
      changed();
    }

    return {
      stack, marks, svg, canvas,
      pixels: () => ({pixels: context.getImageData(0, 0, canvas.width, canvas.height).data, ...size()}),
      glyphs: () => glyphs,
      /** Put another picture under the glyphs, or instead of them. */
      setGround(image, width, height, keep) {
        ground = image;
        stack.fit(width, height);
        if (!keep) glyphs = [];
        build();
      },
      /** Add a glyph, in the middle or where it is dropped. */
      add({name, image, x = canvas.width / 2, y = canvas.height / 2, side = canvas.width / 3, turn = 0}) {
        chosen = {name, image, x, y, side, turn};
        glyphs = [...glyphs, chosen];
        build();
      },
    };

    function size() { return {width: canvas.width, height: canvas.height}; }
  },
});

/* The scene: a ground, glyphs that a hand moves, scales and turns on it, and the pixels that the detector gets. */
"use strict";

Object.assign(tryIt, {
  /** A scene in `parent`. `changed()` is told when its pixels are others. */
  scene(parent, changed) {
    const stack = tryIt.stack(parent, "the scene"), {svg, canvas, context} = stack;
    stack.root.classList.add("try-scene");
    const marks = touch.make(svg, "g"), hands = touch.make(svg, "g");
    const handle = touch.make(svg, "g", {class: "touch-box ink-e"});
    const dot = touch.make(handle, "circle", {class: "dot", r: 5});
    const spot = touch.make(handle, "circle", {class: "spot", r: 16});
    const row = touch.make(parent, "div", {class: "touch-row", role: "group", "aria-label": "the chosen thing"});
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

    svg.addEventListener("pointerdown", ({target}) => { if (target === svg) choose(null); });

    const longest = () => Math.max(canvas.width, canvas.height);
    const scale = ({image, side}) => side / Math.max(image.naturalWidth, image.naturalHeight);
    const half = (one) => [one.image.naturalWidth, one.image.naturalHeight].map((size) => size * scale(one) / 2);
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

    /** Change the chosen glyph, within the scene. */
    function change(to) {
      const one = Object.assign(chosen, to), most = longest();
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
      handle.style.display = one ? "" : "none";
      if (one) place(one);
    }

    /** A hand for one glyph: it moves it. */
    function grip(one) {
      const hand = touch.make(hands, "g", {class: "touch-box ink-e", tabindex: 0, role: "application"});
      const face = touch.make(hand, "rect", {class: "face"});
      touch.drag(hand, () => ({...one}), (dx, dy, from) => {
        change({x: from.x + dx / stack.view.sx, y: from.y + dy / stack.view.sy});
      });
      touch.arrows(hand, (dx, dy, shift) => {
        const {x, y, side, turn} = one;
        change(shift ? {side: side * (1 - 0.05 * dy), turn: turn + 5 * dx} : {x: x + 4 * dx, y: y + 4 * dy});
      });
      hand.addEventListener("focus", () => choose(one));
      hand.addEventListener("keydown", ({key}) => { if (key === "Delete" || key === "Backspace") acts.remove(); });
      Object.assign(one, {hand, face});
      place(one);
    }

    /** The handle at the corner of the chosen glyph scales and turns it. */
    touch.drag(handle, () => ({...chosen, corner: corner(chosen)}), (dx, dy, {side, turn, corner: [x, y]}) => {
      const [toX, toY] = [x + dx / stack.view.sx, y + dy / stack.view.sy];
      const angle = Math.atan2(toY, toX) - Math.atan2(y, x), stretch = Math.hypot(toX, toY) / Math.hypot(x, y);
      change({side: side * stretch, turn: turn + angle * 180 / Math.PI});
    });

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
      if (one !== chosen) return;
      [buttons[0].disabled, buttons[1].disabled] = [one.side >= longest(), one.side <= longest() / 20];
      touch.set(handle, {transform: at});
      for (const part of [dot, spot]) touch.set(part, {cx: w * view.sx, cy: h * view.sy});
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

    /** Of many places the one that is farthest from all glyphs: at first the middle. */
    function free() {
      const grid = Array.from({length: 48}, (_, k) => [(k % 8 + 0.5) / 8, (Math.floor(k / 8) + 0.5) / 6]);
      const places = [[0.5, 0.5], ...grid].map(([x, y]) => ({x: x * canvas.width, y: y * canvas.height}));
      const gap = ({x, y}) => Math.min(...glyphs.map((one) => Math.hypot(one.x - x, one.y - y) - one.side / 2));
      const gaps = places.map(gap);
      return places[gaps.indexOf(Math.max(...gaps))];
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
      /** Add a glyph, where it is dropped or where there is room. */
      add({name, image, x, y, side = canvas.width / 3, turn = 0}) {
        if (x === undefined) ({x, y} = free());
        chosen = {name, image, x, y, side, turn};
        glyphs = [...glyphs, chosen];
        build();
      },
    };

    function size() { return {width: canvas.width, height: canvas.height}; }
  },
});

/* The glyphs that a scene can be made of. */
"use strict";

Object.assign(tryIt, {
  /** Glyphs as buttons: a click adds one, a mouse drags it to its place. One stop for Tab; arrow keys go on. */
  palette(parent, scene) {
    const tabs = touch.make(parent, "div", {class: "touch-row", role: "group", "aria-label": "what can be added"});
    const groups = [["things it knows", true], ["things it does not know", false]].map(([title, known]) => {
      const tab = touch.make(tabs, "button", {type: "button"}, title);
      const group = touch.make(parent, "div", {class: "try-glyphs", role: "group", "aria-label": title});
      tab.addEventListener("click", () => open(group));
      const glyphs = tryIt.data.glyphs.filter((glyph) => glyph.known === known);
      const buttons = glyphs.map((glyph) => tryIt.glyphButton(group, glyph, scene));
      const stop = (one) => buttons.forEach((button) => { button.tabIndex = button === one ? 0 : -1; });
      stop(buttons[0]);
      touch.arrows(group, (dx, dy) => {
        const columns = buttons.filter((one) => one.offsetTop === buttons[0].offsetTop).length;
        const next = buttons[buttons.indexOf(document.activeElement) + dx + dy * columns];
        if (!next) return;
        stop(next);
        next.focus();
      });
      return {tab, group};
    });
    function open(shown) {
      for (const {tab, group} of groups) {
        group.hidden = group !== shown;
        touch.set(tab, {"aria-pressed": !group.hidden});
      }
    }
    open(groups[0].group);
  },

  /** A button that adds a glyph, once its picture has arrived. */
  glyphButton(group, {name, file}, scene) {
    const look = {type: "button", title: name, "aria-label": `add: ${name}`, "aria-disabled": true};
    const button = touch.make(group, "button", look);
    const image = touch.make(button, "img", {src: new URL(file, tryIt.base).href, alt: "", draggable: false});
    image.addEventListener("load", () => touch.set(button, {"aria-disabled": false}));
    tryIt.dragOut(button, image, scene, (at) => { if (image.naturalWidth) scene.add({name, image, ...at}); });
    return button;
  },

  /** Call `add()` for a click, and `add({x, y})`, in pixels of the scene, for a glyph that is dragged there. */
  dragOut(button, image, scene, add) {
    let ghost = null, dragged = false;
    button.addEventListener("pointerdown", (down) => {
      dragged = false;
      if (down.pointerType !== "mouse" || down.button) return; // a finger scrolls here, and moves glyphs in the scene
      const over = new AbortController(), {signal} = over;
      const follow = ({clientX, clientY}) => {
        if (Math.hypot(clientX - down.clientX, clientY - down.clientY) > 6) dragged = true;
        if (!dragged) return;
        ghost ??= touch.make(document.body, "img", {src: image.src, alt: "", class: "try-ghost"});
        Object.assign(ghost.style, {left: `${clientX}px`, top: `${clientY}px`});
      };
      const drop = ({clientX, clientY}) => {
        const {left, top, width, height} = scene.canvas.getBoundingClientRect();
        const x = (clientX - left) / width, y = (clientY - top) / height;
        if (dragged && x > 0 && x < 1 && y > 0 && y < 1) add({x: x * scene.canvas.width, y: y * scene.canvas.height});
      };
      const end = () => {
        over.abort();
        ghost?.remove();
        ghost = null;
      };
      button.setPointerCapture(down.pointerId);
      button.addEventListener("pointermove", follow, {signal});
      button.addEventListener("pointerup", drop, {signal});
      button.addEventListener("lostpointercapture", end, {signal}); // however it ends
    });
    button.addEventListener("click", ({detail}) => { if (!dragged || !detail) add(); }); // by keyboard it is 0
  },
});

/* What a scene can be made of: grounds, validation scenes, a picture of the reader's own, glyphs. */
"use strict";

Object.assign(tryIt, {
  LONGEST: 1600, // pixels of a reader's own picture; a larger one is first made smaller by the browser

  /** The choice of a picture. `act(entry)` gets a background, a scene or what `own` has got. */
  choice(parent, act) {
    const label = touch.make(parent, "label", {class: "try-choice"}), entries = [];
    touch.make(label, "span", {}, "picture");
    const select = touch.make(label, "select");
    for (const [name, list] of [["to compose on", "backgrounds"], ["scenes that it has not learned from", "scenes"]]) {
      const group = touch.make(select, "optgroup", {label: name});
      for (const entry of tryIt.data[list]) {
        touch.make(group, "option", {value: entries.length}, entry.name);
        entries.push(entry);
      }
    }
    const own = touch.make(select, "option", {value: entries.length, hidden: ""}, "your own");
    select.addEventListener("change", () => { tryIt.opening = act(entries[select.value]); });
    return {
      first() { select.value = 0; },
      /** Keep a picture of the reader's own in the list, and show it. */
      own(entry) {
        entries[own.value] = entry;
        own.hidden = false;
        own.selected = true;
        act(entry);
      },
    };
  },

  /** A button for a file, and the scene as a place to drop one. `act({image, width, height})`. */
  ownPicture(parent, target, act) {
    const label = touch.make(parent, "label", {class: "try-choice"});
    touch.make(label, "span", {}, "or your own");
    const input = touch.make(label, "input", {type: "file", accept: "image/*", title: "You can drop one, too."});
    const complaint = touch.make(parent, "p", {class: "try-complaint", role: "alert"});
    async function open(file) {
      if (!file) return;
      complaint.textContent = "";
      try {
        const image = await createImageBitmap(file);
        const scale = Math.min(1, tryIt.LONGEST / Math.max(image.width, image.height));
        const [width, height] = [image.width, image.height].map((size) => Math.max(Math.round(size * scale), 1));
        act({image, width, height});
      } catch {
        complaint.textContent = `${file.name} is no picture that this browser can read.`;
      }
    }
    parent.addEventListener("change", () => { complaint.textContent = ""; }); // the list of pictures stands there, too
    input.addEventListener("change", () => {
      tryIt.opening = open(input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    });
    target.addEventListener("dragover", (event) => event.preventDefault());
    target.addEventListener("drop", (event) => {
      event.preventDefault();
      tryIt.opening = open(event.dataTransfer.files[0]);
    });
  },

  /** Glyphs as buttons: a click adds one, a mouse drags it to its place. One stop for Tab; arrow keys go on. */
  palette(parent, scene) {
    const tabs = touch.make(parent, "div", {class: "touch-row", role: "group", "aria-label": "what can be added"});
    const groups = [["things it knows", true], ["things it does not know", false]].map(([title, known]) => {
      const tab = touch.make(tabs, "button", {type: "button"}, title);
      const group = touch.make(parent, "div", {class: "try-glyphs", role: "group", "aria-label": title});
      tab.addEventListener("click", () => open(group));
      const buttons = tryIt.data.glyphs.filter((glyph) => glyph.known === known).map((glyph) => {
        const words = {title: glyph.name, "aria-label": `add: ${glyph.name}`};
        const button = touch.make(group, "button", {type: "button", ...words});
        const image = touch.make(button, "img", {src: new URL(glyph.file, tryIt.base).href, alt: "", draggable: false});
        const add = (at) => scene.add({name: glyph.name, image, ...at});
        tryIt.dragOut(button, image, scene, add);
        return button;
      });
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

  /** Call `add()` for a click, and `add({x, y})`, in pixels of the scene, for a glyph that is dragged there. */
  dragOut(button, image, scene, add) {
    let ghost = null, dragged = false;
    button.addEventListener("pointerdown", (down) => {
      dragged = false;
      if (down.pointerType !== "mouse") return; // a finger scrolls the page here, and moves the glyph in the scene
      button.setPointerCapture(down.pointerId);
      const follow = ({clientX, clientY}) => {
        if (Math.hypot(clientX - down.clientX, clientY - down.clientY) > 6) dragged = true;
        if (!dragged) return;
        ghost ??= touch.make(document.body, "img", {src: image.src, alt: "", class: "try-ghost"});
        Object.assign(ghost.style, {left: `${clientX}px`, top: `${clientY}px`});
      };
      const end = ({clientX, clientY}) => {
        button.removeEventListener("pointermove", follow);
        ghost?.remove();
        ghost = null;
        const {left, top, width, height} = scene.canvas.getBoundingClientRect();
        const x = (clientX - left) / width, y = (clientY - top) / height;
        if (dragged && x > 0 && x < 1 && y > 0 && y < 1) add({x: x * scene.canvas.width, y: y * scene.canvas.height});
      };
      button.addEventListener("pointermove", follow);
      button.addEventListener("pointerup", end, {once: true});
    });
    button.addEventListener("click", () => { if (!dragged) add(); dragged = false; });
  },
});

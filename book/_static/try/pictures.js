/* What can lie under the glyphs: backgrounds, validation scenes, a picture of the reader's own. */
"use strict";

Object.assign(tryIt, {
  LONGEST: 1600, // pixels of a reader's own picture; a larger one is first made smaller by the browser

  /** The choice of a picture. `shown(entry)` gets each that has arrived, `complain(text)` why one does not. */
  pictures(parent, root, shown, complain) {
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
    const own = new Option("your own", entries.length);
    let asked = 0, current;

    /** Show a picture, unless another is asked for before it has arrived. Whether it is shown. */
    async function open(entry) {
      const mine = ++asked;
      let complaint = "";
      try {
        entry.image ??= await (entry.own ? tryIt.opaque(entry.own) : tryIt.image(entry.file));
      } catch {
        complaint = entry.own ? `${entry.own.name} is no picture that this browser can read.`
          : `The picture “${entry.name}” did not arrive. Please see whether you are still connected.`;
      }
      if (mine !== asked) return false;
      complain(complaint);
      if (!complaint) list(current = entry);
      select.value = entries.indexOf(current);
      if (!complaint) shown(entry);
      return !complaint;
    }

    /** A picture of the reader's own is in the list, too, until the next one. */
    function list(entry) {
      if (!entry.own) return;
      select.append(own);
      entries[own.value] = entry;
    }

    const ask = (entry) => { tryIt.opening = open(entry); };
    select.addEventListener("change", () => ask(entries[select.value]));
    tryIt.ownPicture(parent, root, (file) => ask({own: file}), complain);
    return open;
  },

  /** A button for a file, and the whole detector as a place to drop one. */
  ownPicture(parent, root, act, complain) {
    const button = touch.make(parent, "button", {type: "button"}, "take a picture of your own");
    const look = {type: "file", accept: "image/*", hidden: "", "aria-label": "a file of your own"};
    const input = touch.make(parent, "input", look);
    touch.make(parent, "span", {}, "or drop one here");
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      if (input.files[0]) act(input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    });
    root.addEventListener("dragover", (event) => event.preventDefault());
    root.addEventListener("drop", (event) => {
      event.preventDefault();
      const [file] = event.dataTransfer.files;
      file ? act(file) : complain("That is no file. Please drop a picture from one of your folders.");
    });
  },

  /** A file's picture, not too large and on white, for the network knows no transparency. */
  async opaque(file) {
    const bitmap = await createImageBitmap(file), sides = [bitmap.width, bitmap.height];
    const scale = Math.min(1, tryIt.LONGEST / Math.max(...sides));
    const [width, height] = sides.map((size) => Math.max(Math.round(size * scale), 1));
    const canvas = Object.assign(document.createElement("canvas"), {width, height});
    const context = canvas.getContext("2d", {willReadFrequently: true});
    Object.assign(context, {fillStyle: "#ffffff", imageSmoothingQuality: "high"});
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0, width, height);
    bitmap.close();
    return canvas;
  },
});

/* Fetch the detector once its reader asks for it, with a bar that tells how far that is. */
"use strict";

Object.assign(tryIt, {
  /** Why it cannot run here, or nothing. */
  obstacle() {
    if (location.protocol === "file:") {
      return "Browsers forbid a page that was opened from a folder to load the detector. Serve the folder instead: " +
        "start “python -m http.server” in the folder of the site, and open http://localhost:8000.";
    }
    if (typeof WebAssembly !== "object") {
      return "The detector needs WebAssembly, which this browser does not have or has switched off.";
    }
    return "";
  },

  /** The bytes of a file; `tell` hears of each part. */
  async fetch(url, tell) {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
    const parts = [], reader = answer.body.getReader();
    for (;;) {
      const {done, value} = await reader.read();
      if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
      parts.push(value);
      tell(value.length);
    }
  },

  script(url) {
    return new Promise((resolve, reject) => {
      const element = Object.assign(document.createElement("script"), {src: url, onload: resolve});
      element.onerror = () => reject(new Error(`${url} cannot be loaded`));
      document.head.append(element);
    });
  },

  /** A picture of the site, decoded. */
  image(file) {
    return new Promise((resolve, reject) => {
      const image = Object.assign(new Image(), {onload: () => resolve(image), src: new URL(file, tryIt.base).href});
      image.onerror = () => reject(new Error(`${file} cannot be loaded`));
    });
  },

  /** Load everything that `files` names, relative to `base`; `tell(share)` hears how far it is. */
  async load(base, files, tell) {
    tryIt.base = new URL(base, location.href);
    const url = (kind) => new URL(files[kind].file, tryIt.base).href;
    const kinds = ["wasm", "picture", "regions", "data"];
    const total = kinds.reduce((sum, kind) => sum + files[kind].bytes, 0);
    let loaded = 0;
    const part = (length) => tell(Math.min((loaded += length) / total, 1));
    const [wasm, picture, regions, data] = await Promise.all(kinds.map((kind) => tryIt.fetch(url(kind), part)));
    tryIt.data = JSON.parse(new TextDecoder().decode(data));
    tryIt.settings = tryIt.data.detector;
    await tryIt.script(url("script"));
    tryIt.ort = window.ort;
    Object.assign(tryIt.ort.env.wasm, {
      wasmBinary: wasm.buffer, wasmPaths: {mjs: url("glue")}, numThreads: 1, // more would need headers of the server's
    });
    const create = (bytes) => tryIt.ort.InferenceSession.create(bytes, {executionProviders: ["wasm"]});
    tryIt.graphs = {picture: await create(picture), regions: await create(regions)};
  },
});

/* Fetch the detector once its reader asks for it, with a bar that tells how far that is. */
"use strict";

Object.assign(tryIt, {
  parts: {}, // what has arrived: a second try needs the others alone

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

  /** What a promise of something from the site brings; its error is known as one of a part that is `missing`. */
  arrival(promise) {
    return promise.catch((error) => { throw Object.assign(error, {missing: true}); });
  },

  /** The bytes of a file; `tell` hears of each part. */
  async fetch(url, tell, signal) {
    const answer = await fetch(url, {signal});
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
    return tryIt.arrival(new Promise((resolve, reject) => {
      const element = Object.assign(document.createElement("script"), {src: url, onload: resolve});
      element.onerror = () => reject(new Error(`${url} cannot be loaded`));
      document.head.append(element);
    }));
  },

  /** A picture of the site, decoded. */
  image(file) {
    return tryIt.arrival(new Promise((resolve, reject) => {
      const image = Object.assign(new Image(), {onload: () => resolve(image), src: new URL(file, tryIt.base).href});
      image.onerror = () => reject(new Error(`${file} cannot be loaded`));
    }));
  },

  /** Load everything that `files` names, relative to `base`; `tell(share)` hears how far it is. */
  async load(base, files, tell) {
    if (tryIt.graphs) return;
    tryIt.base = new URL(base, location.href);
    const {parts} = tryIt, url = (kind) => new URL(files[kind].file, tryIt.base).href;
    const kinds = ["wasm", "glue", "picture", "regions", "data"], stop = new AbortController();
    const total = kinds.reduce((sum, kind) => sum + files[kind].bytes, 0);
    let loaded = kinds.reduce((sum, kind) => sum + (parts[kind]?.length ?? 0), 0);
    const part = (length) => tell(Math.min((loaded += length) / total, 1));
    const fetched = kinds.map(async (kind) => { parts[kind] ??= await tryIt.fetch(url(kind), part, stop.signal); });
    await tryIt.arrival(Promise.all(fetched)).catch((error) => { stop.abort(); throw error; });
    tryIt.data = JSON.parse(new TextDecoder().decode(parts.data));
    tryIt.settings = tryIt.data.detector;
    if (!window.ort) await tryIt.script(url("script"));
    tryIt.ort = window.ort;
    Object.assign(tryIt.ort.env.wasm, {
      wasmBinary: parts.wasm.buffer, wasmPaths: {mjs: url("glue")},
      numThreads: 1, // more would need headers of the server's
      proxy: true, // in a worker: the page's own thread follows the reader's hand
    });
    const create = (bytes) => tryIt.ort.InferenceSession.create(bytes.slice(), {executionProviders: ["wasm"]});
    tryIt.graphs = {picture: await create(parts.picture), regions: await create(parts.regions)};
    tryIt.parts = {};
  },
});

/* Where glyphs are, in pixels of the scene: their sizes and corners, and room for another one. */
"use strict";

Object.assign(tryIt, {
  /** Half the width and half the height of a glyph. */
  half({image: {naturalWidth: width, naturalHeight: height}, side}) {
    return [width, height].map((size) => size * side / Math.max(width, height) / 2);
  },

  /** From a glyph's middle to its handle: to the first of its corners in the scene, or else into it. */
  corner(one, {width, height}, margin) {
    const [w, h] = tryIt.half(one), angle = one.turn * Math.PI / 180, [sin, cos] = [Math.sin(angle), Math.cos(angle)];
    const inside = (value, size) => Math.min(Math.max(value, margin), size - margin);
    const corners = [[w, h], [-w, h], [-w, -h], [w, -h]].map(([i, j]) => {
      const [x, y] = [i * cos - j * sin, i * sin + j * cos];
      const at = [inside(one.x + x, width) - one.x, inside(one.y + y, height) - one.y];
      return {at, off: Math.round(Math.hypot(at[0] - x, at[1] - y))};
    });
    const least = Math.min(...corners.map(({off}) => off));
    return corners.find(({off}) => off === least).at;
  },

  /** Of many places the one that is farthest from all glyphs: at first the middle. */
  free(glyphs, {width, height}) {
    const grid = Array.from({length: 48}, (_, k) => [(k % 8 + 0.5) / 8, (Math.floor(k / 8) + 0.5) / 6]);
    const places = [[0.5, 0.5], ...grid].map(([x, y]) => ({x: x * width, y: y * height}));
    const gaps = places.map(({x, y}) => {
      return Math.min(...glyphs.map((one) => Math.hypot(one.x - x, one.y - y) - one.side / 2));
    });
    return places[gaps.indexOf(Math.max(...gaps))];
  },
});

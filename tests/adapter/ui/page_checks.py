"""Checks of an open page as scripts: each gives a list of findings, which is empty where all is well."""

from __future__ import annotations

LAYOUT = """(() => {
  const found = [];
  if (document.documentElement.scrollWidth > innerWidth) {
    found.push(`the page is ${document.documentElement.scrollWidth} wide, the window ${innerWidth}`);
  }
  const boxes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest(".skip, .unseen, .fleet thead, option, title, script")) continue;
    if (parent.closest("details:not([open]) > :not(summary)")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width < 1 || box.height < 1) continue;
      if (!parent.closest(".scroll") && (box.left < -1 || box.right > innerWidth + 1)) {
        found.push(`outside of the window: ${node.data.trim().slice(0, 60)}`);
      }
      boxes.push({ box, parent, text: node.data.trim() });
    }
  }
  for (const control of document.querySelectorAll("input, select")) {
    boxes.push({ box: control.getBoundingClientRect(), parent: control, text: control.name });
  }
  boxes.sort((a, b) => a.box.top - b.box.top);
  boxes.forEach((one, place) => {
    for (let next = place + 1; next < boxes.length; next++) {
      const other = boxes[next];
      if (other.box.top >= one.box.bottom) break;
      if (one.parent.contains(other.parent) && one.parent.matches("select, option")) continue;
      // What is scrolled out of its own frame covers nothing.
      if (one.parent.closest(".scroll") !== other.parent.closest(".scroll")) continue;
      const width = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left);
      const height = Math.min(one.box.bottom, other.box.bottom) - other.box.top;
      if (width > 2 && height > 3 && found.length < 20) {
        found.push(`${one.text.slice(0, 40)} overlaps ${other.text.slice(0, 40)} by ${width} x ${height}`);
      }
    }
  });
  return [boxes.length, found];
})()"""
"""Number of texts and controls, and those that overlap or leave the window."""

ACCESS = """(() => {
  const found = [];
  const named = (item) => (item.getAttribute("aria-labelledby") || "").split(" ")
    .map((id) => document.getElementById(id)?.textContent || "").join(" ");
  const text = (item) => item.closest("label")?.textContent || item.textContent || "";
  const name = (item) => (item.getAttribute("aria-label") || named(item) || text(item)).trim();
  const asked = "a, button, input, select, svg[role=img], nav, [role=group]";
  for (const item of document.querySelectorAll(asked)) {
    if (!name(item)) found.push(`no name: ${item.outerHTML.slice(0, 80)}`);
  }
  const ids = Array.from(document.querySelectorAll("[id]"), (item) => item.id);
  ids.filter((id, place) => ids.indexOf(id) !== place).forEach((id) => found.push(`id ${id} twice`));
  let before = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const level = Number(heading.tagName[1]);
    if (level > before + 1) found.push(`heading ${heading.textContent} of level ${level} after ${before}`);
    before = level;
  }
  if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
  if (document.documentElement.lang !== "en") found.push("no language");
  if (!document.title) found.push("no title");
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  for (const cell of document.querySelectorAll("th")) {
    if (!cell.scope && !cell.getAttribute("role")) found.push(`th without scope: ${cell.textContent}`);
  }
  for (const table of document.querySelectorAll(".fleet, .fleet tr, .fleet td")) {
    if (!table.getAttribute("role")) found.push(`no role where styles change the display: ${table.tagName}`);
  }
  for (const item of document.querySelectorAll("[hidden]")) {
    if (item.getClientRects().length) found.push(`hidden but shown: ${item.outerHTML.slice(0, 80)}`);
  }
  if (document.querySelector("[style], style, script:not([src])")) found.push("inline style or script");
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (item) => {
    for (let at = item; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 24, 31] : [255, 255, 255];
  };
  const seen = new Set();
  for (const item of document.querySelectorAll("body *")) {
    const own = Array.from(item.childNodes).some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || item.closest("option, title, .skip, .unseen")) continue;
    const style = getComputedStyle(item);
    const colour = item.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const key = `${colour} ${behind(item)}`;
    if (seen.has(key)) continue;
    seen.add(key);
    const [a, b] = [light(parse(colour)), light(behind(item))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)}: ${item.outerHTML.slice(0, 80)}`);
  }
  return [seen.size, found];
})()"""
"""Number of pairs of colours, and what a screen reader or weak eyes would miss: names, roles, contrast."""

AXE = """(async () => {
  const result = await axe.run(document, { resultTypes: ["violations"] });
  return result.violations.map((item) => `${item.id}: ${item.help}: ${item.nodes[0].html.slice(0, 120)}`);
})()"""
"""Violations of all rules of axe-core, which must have been loaded into the page."""

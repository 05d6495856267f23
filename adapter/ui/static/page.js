"use strict";
// Keeps a page up to date, and sends the what-if form. Everything works without it, except updates.

const connection = document.getElementById("connection");
const pause = document.getElementById("pause");
let paused = false;
let waiting = false;
let busy = false;
let again = false;
let analyzedAt = Date.now();

const ANALYSIS_MS = 30000; // the least time between two computations of what an answer depends on

async function fragment(url, options = {}) {
  const headers = { "X-Fragment": "1" };
  const response = await fetch(url, { ...options, headers, cache: "no-store", credentials: "same-origin" });
  const text = await response.text();
  if (!response.ok && !response.headers.get("X-Fragment")) {
    throw new Error(`the adapter answered ${response.status}`);
  }
  // A document of its own: its scripts do not run, and its images are not loaded.
  return new DOMParser().parseFromString(text, "text/html").body;
}

function put(place, body) {
  const focused = document.activeElement;
  const link = place.contains(focused) ? focused.getAttribute("href") : null;
  const own = ".scroll, summary";
  const held = Array.from(place.querySelectorAll(own)).indexOf(focused);
  const left = Array.from(place.querySelectorAll(".scroll"), (item) => item.scrollLeft);
  const open = Array.from(place.querySelectorAll("details"), (item) => item.open);
  place.replaceChildren(...body.childNodes);
  place.querySelectorAll("details").forEach((item, index) => {
    item.open = open[index] || item.open;
  });
  place.querySelectorAll(".scroll").forEach((item, index) => {
    item.scrollLeft = left[index] || 0;
  });
  if (link !== null) {
    for (const item of place.querySelectorAll("a[href]")) {
      if (item.getAttribute("href") === link) {
        item.focus({ preventScroll: true });
        break;
      }
    }
  } else if (held >= 0) {
    place.querySelectorAll(own)[held]?.focus({ preventScroll: true });
  }
}

async function refresh() {
  const place = document.querySelector("[data-live]");
  if (place === null) {
    return;
  }
  if (paused || document.hidden) {
    waiting = true;
    return;
  }
  if (busy) {
    // What is being fetched may be of before this tick.
    again = true;
    return;
  }
  busy = true;
  waiting = again = false;
  try {
    put(place, await fragment(location.href));
    connection.textContent = `Updated ${new Date().toISOString().slice(11, 19)} UTC`;
    document.documentElement.dataset.updates = Number(document.documentElement.dataset.updates || 0) + 1;
    if (Date.now() - analyzedAt >= ANALYSIS_MS) {
      await analyze();
    }
  } catch (error) {
    connection.textContent = `Not up to date: ${error.message}`;
  } finally {
    busy = false;
  }
  if (again) {
    await refresh();
  }
}

async function analyze() {
  const section = document.querySelector("#analysis[data-src]");
  if (section === null) {
    return;
  }
  analyzedAt = Date.now();
  section.setAttribute("aria-busy", "true");
  try {
    put(section.querySelector(".inner"), await fragment(section.dataset.src));
  } catch (error) {
    connection.textContent = `Not computed: ${error.message}`;
  } finally {
    section.setAttribute("aria-busy", "false");
  }
}

function listen() {
  if (document.querySelector("[data-live]") === null) {
    connection.textContent = "";
    return;
  }
  const source = new EventSource("/ui/events");
  source.addEventListener("tick", refresh);
  source.addEventListener("open", () => {
    connection.textContent = "Live";
    // What was being read when the page came may have arrived before this stream was open.
    if (document.querySelector("[data-pending]") !== null) {
      refresh();
    }
  });
  source.addEventListener("error", () => {
    connection.textContent =
      source.readyState === EventSource.CLOSED ? "No updates: too many viewers; reload to try again" : "Reconnecting";
  });
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    connection.textContent = paused ? "Paused" : "Live";
    if (!paused && waiting) {
      refresh();
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && waiting) {
      refresh();
    }
  });
}

for (const input of document.querySelectorAll("input[type=range]")) {
  const output = input.parentElement.querySelector("output");
  const unit = input.name === "devices" ? "" : " %";
  const show = () => {
    output.textContent = `${input.value}${unit}`;
  };
  input.addEventListener("input", show);
  show();
}

for (const kind of document.querySelectorAll("select[name=device]")) {
  kind.addEventListener("change", () => {
    const devices = kind.form.elements.devices;
    devices.value = kind.selectedOptions[0].dataset.count || 0;
    devices.dispatchEvent(new Event("input"));
  });
}

for (const form of document.querySelectorAll("form[data-result]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const place = document.getElementById(form.dataset.result);
    const button = form.querySelector("button");
    place.setAttribute("aria-busy", "true");
    button.disabled = true;
    try {
      put(place, await fragment(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) }));
    } catch (error) {
      place.textContent = `Not planned: ${error.message}`;
    } finally {
      place.setAttribute("aria-busy", "false");
      button.disabled = false;
    }
  });
}

listen();
analyze();

// Keeps the page up to date: when the server says that something changed, the page is fetched again and the parts marked
// data-live are exchanged. Without this script everything still works, by reloading.
"use strict";

const wanted = document.body.dataset.stream.trim();
const live = document.getElementById("live");
const announce = document.getElementById("announce");
// How long after a notice the page is fetched: at once for what matters, seldom for what only counts.
const SOON = 150;
const SELDOM = 5000;

let timer = null;
let due = 0;
let fetching = false;
let again = false;

function say(state, text) {
  if (!live) return;
  live.hidden = false;
  live.className = "live " + state;
  if (live.textContent !== text) live.textContent = text;
}

function schedule(delay) {
  const at = Date.now() + delay;
  if (timer !== null && due <= at) return;
  if (timer !== null) clearTimeout(timer);
  due = at;
  timer = setTimeout(refresh, delay);
}

async function refresh() {
  timer = null;
  if (fetching) { again = true; return; }
  if (document.hidden) { document.addEventListener("visibilitychange", () => schedule(SOON), { once: true }); return; }
  fetching = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    if (answer.redirected && new URL(answer.url).pathname === "/login") { location.reload(); return; }
    if (answer.ok) exchange(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch { /* the stream says when the server is back */ }
  fetching = false;
  if (again) { again = false; schedule(SOON); }
}

function exchange(fresh) {
  const known = new Set([...document.querySelectorAll("[data-alert]")].map((row) => row.dataset.alert));
  // Another set of parts (the first node has joined): the page is another one.
  if (parts(fresh).map((part) => part.id).join() !== parts(document).map((part) => part.id).join()) {
    location.reload();
    return;
  }
  for (const part of parts(fresh)) {
    const old = document.getElementById(part.id);
    prepare(part);
    if (old.innerHTML === part.innerHTML && old.className === part.className) continue;
    const focus = focusWithin(old);
    const open = [...old.querySelectorAll("details")].map((details) => details.open);
    old.replaceWith(part);
    part.querySelectorAll("details").forEach((details, index) => { details.open = open[index] || false; });
    for (const row of part.querySelectorAll("[data-alert]")) {
      if (known.size > 0 && !known.has(row.dataset.alert)) row.classList.add("fresh");
    }
    if (focus) (part.querySelector(focus) || document.getElementById("main")).focus({ preventScroll: true });
  }
}

function parts(page) {
  return [...page.querySelectorAll("[data-live][id]")];
}

// What finds the focused link again after its part was exchanged.
function focusWithin(part) {
  const active = document.activeElement;
  if (!active || !part.contains(active)) return null;
  return active.getAttribute("href") ? `a[href="${CSS.escape(active.getAttribute("href"))}"]` : "a";
}

function prepare(root) {
  for (const command of root.querySelectorAll("[data-copy]")) {
    const text = command.textContent;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy the command " + text);
    button.dataset.text = text;
    command.append(button);
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.text);
    button.textContent = "Copied";
  } catch {
    const range = document.createRange();
    range.selectNodeContents(button.parentElement.firstChild);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});

function listen() {
  const stream = new EventSource("/api/v1/stream");
  let lost = false;
  stream.onopen = () => { say("on", "live"); if (lost) schedule(SOON); lost = false; };
  stream.onerror = () => {
    lost = true;
    say("off", "reconnecting");
    // A refused stream does not come back by itself: perhaps nobody is logged in any more.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => { refresh(); listen(); }, SELDOM);
  };
  const on = (name, then) => stream.addEventListener(name, (event) => then(JSON.parse(event.data)));
  if (wanted.includes("alerts")) {
    on("alert_opened", ({ alert }) => {
      announce.textContent = `New ${alert.severity.toLowerCase()} alert: ${alert.rule_name} on ${alert.server_hostname}`;
      schedule(SOON);
    });
    on("alert_changed", () => schedule(SOON));
  }
  if (wanted.includes("nodes")) on("node_changed", () => schedule(SOON));
  if (wanted.includes("events")) on("events_stored", () => schedule(SELDOM));
  on("reload", () => schedule(SOON));
  addEventListener("pagehide", () => stream.close());
}

prepare(document);
if (wanted) {
  listen();
  // Ages and silences grow also while nothing happens.
  setInterval(() => schedule(SOON), 60000);
}

// Keeps a page new. Everything works without it; it changes nothing on the server.
"use strict";
(() => {
  const mode = document.body.dataset.live;
  const fresh = document.getElementById("fresh");

  const say = (words, state) => {
    let note = fresh.querySelector("span");
    if (!note) {
      note = document.createElement("span");
      fresh.prepend(note, " ");
    }
    note.textContent = words;
    fresh.dataset.state = state;
  };

  const parse = (html) => new DOMParser().parseFromString(html, "text/html");

  // What had the focus has it again, if it is still there; what was unfolded or scrolled stays so.
  const swap = (old, next) => {
    const all = (root, what) => [...root.querySelectorAll(what)];
    const path = "a, button, input, select, summary, [tabindex]";
    const focus = old.contains(document.activeElement) ? document.activeElement : null;
    if (focus && focus.matches("input, select")) return; // somebody types
    const at = focus ? all(old, path).indexOf(focus) : -1;
    all(old, "details").forEach((one, n) => {
      const other = all(next, "details")[n];
      if (other) other.open = one.open;
    });
    const scrolled = all(old, ".graph, pre").map((one) => [one.scrollLeft, one.scrollTop]);
    old.replaceWith(next);
    all(next, ".graph, pre").forEach((one, n) => {
      if (scrolled[n]) [one.scrollLeft, one.scrollTop] = scrolled[n];
    });
    if (focus) {
      const same = focus.href && all(next, "a").find((one) => one.getAttribute("href") === focus.getAttribute("href"));
      const found = same || all(next, path)[at];
      if (found) found.focus({ preventScroll: true });
    }
  };

  const put = (next) => {
    const old = document.getElementById(next.id);
    if (!old) return false;
    if (old.innerHTML !== next.innerHTML) swap(old, document.adoptNode(next));
    return true;
  };

  if (mode === "retry") {
    setInterval(async () => {
      try {
        const answer = await fetch(location.href, { cache: "no-store" });
        if (answer.status < 500) location.reload();
      } catch { /* not yet */ }
    }, 2000);
    return;
  }
  if (mode !== "push" && mode !== "reload") return;

  let pulse = document.body.dataset.pulse;
  let waiting = false;
  let last = 0;
  const reread = () => {
    if (waiting) return;
    waiting = true;
    setTimeout(async () => {
      waiting = false;
      last = Date.now();
      try {
        const answer = await fetch(location.href, { cache: "no-store" });
        if (!answer.ok) return;
        const page = parse(await answer.text());
        pulse = page.body.dataset.pulse;
        page.querySelectorAll("main > section").forEach(put);
      } catch { /* the stream tells what is wrong */ }
    }, Math.max(0, 2000 - (Date.now() - last)));
  };

  // A browser has few connections a server: a page that nobody sees gives its own back.
  let stream = null;
  const close = () => {
    if (stream) stream.close();
    stream = null;
  };
  const open = () => {
    if (stream || document.hidden) return;
    const mine = new EventSource(mode === "push" ? "/stream" : `/stream?pulse=${pulse}`);
    const on = (name, what) => mine.addEventListener(name, (event) => what(JSON.parse(event.data)));
    on("section", ({ html }) => {
      const next = parse(html).querySelector("section");
      if (next) put(next);
    });
    on("changed", reread);
    on("down", () => say("The database does not answer; this is what was read last.", "down"));
    on("up", () => { if (mode === "reload") reread(); });
    on("at", (at) => say(`Live, ${at} UTC`, "live"));
    mine.onerror = () => {
      const gone = mine.readyState === EventSource.CLOSED;
      say(gone ? "Not kept new." : "The sidecar does not answer; trying again.", "down");
    };
    stream = mine;
  };
  open();
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
})();

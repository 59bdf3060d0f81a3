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
    // one question at a time, each later than the one before, and none while nobody sees the page
    let pause = 2000;
    let wanted = false;
    const again = () => { setTimeout(ask, pause); pause = Math.min(30000, pause * 2); };
    const ask = async () => {
      wanted = document.hidden;
      if (wanted) return;
      try {
        const answer = await fetch(location.href, { cache: "no-store" });
        // also a page that says why it does not try again
        if (answer.status < 500 || parse(await answer.text()).body.dataset.live === "") return location.reload();
      } catch { /* not yet */ }
      again();
    };
    document.addEventListener("visibilitychange", () => { if (wanted && !document.hidden) ask(); });
    again();
    return;
  }
  if (mode !== "push" && mode !== "reload") return;

  let stream = null;
  let isDown = false;
  let pulse = document.body.dataset.pulse;
  let at = document.body.dataset.at; // when what stands here was read
  let isOld = false;
  let waiting = false;
  let missed = false;
  let pause = 2000; // between two readings; longer, and longer again, while none comes
  let last = Date.now();
  const tell = () => {
    if (isOld) say(`Read at ${at} UTC, and not since.`, "down");
    else say(`Live, ${at} UTC`, "live");
  };
  const isHeard = () => stream && stream.readyState === EventSource.OPEN && !isDown;
  const reread = () => {
    missed = true;
    if (waiting) return;
    waiting = true;
    setTimeout(async () => {
      missed = false;
      const text = await fetch(location.href, { cache: "no-store" })
        .then((answer) => (answer.ok ? answer.text() : null))
        .catch(() => null);
      last = Date.now();
      isOld = text === null;
      pause = isOld ? Math.min(30000, pause * 2) : 2000;
      if (!isOld) {
        const page = parse(text);
        ({ pulse, at } = page.body.dataset);
        page.querySelectorAll("main > section").forEach(put);
      }
      if (isHeard()) tell();
      waiting = false;
      if (missed) reread();
    }, Math.max(0, pause - (Date.now() - last)));
  };
  // Silence writes nothing, so it moves no pulse: what is not read again looks as alive as it was.
  const age = () => setTimeout(() => {
    if (isHeard() && !document.hidden && Date.now() - last > 9000) reread();
    age();
  }, 10000 + Math.random() * 5000);
  if (mode === "reload") age();

  // A browser has few connections a server: a page that nobody sees gives its own back.
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
    on("down", () => {
      isDown = true;
      say("The database does not answer; this is what was read last.", "down");
    });
    on("up", () => { if (mode === "reload") reread(); });
    on("at", (now) => {
      isDown = false;
      if (mode === "push") at = now;
      tell();
    });
    mine.onerror = () => {
      const gone = mine.readyState === EventSource.CLOSED;
      say(gone ? "Not kept new." : "The sidecar does not answer; trying again.", "down");
    };
    stream = mine;
  };
  open();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return close();
    open();
    if (mode === "reload" && Date.now() - last > 9000) reread();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
})();

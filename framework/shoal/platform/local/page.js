
"use strict";
const POLL_MS = 1000, SHOWN = 25, BARS = 120, PATIENCE_MS = 5000;
const HELD_MS = 50, LOWEST = -1; /* the chart begins at 10^LOWEST ms */
const $ = (id) => document.getElementById(id);

/* Every text enters the page as a text node: nothing that came from outside is read as markup. */
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
/* Draw a part anew when what it shows has changed; what is selected or has the focus stays. */
const shown = {};
function put(id, state, make) {
  const text = JSON.stringify(state), selection = getSelection(), focus = document.activeElement.dataset.key;
  if (shown[id] === text || (!selection.isCollapsed && $(id).contains(selection.anchorNode))) return;
  shown[id] = text;
  $(id).replaceChildren(...[make()].flat(Infinity));
  if (focus) $(id).querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
}
const pill = (kind, text) => h("span", { class: "pill " + kind }, text);
const soft = (text) => h("span", { class: "soft" }, text);
const ms = (value) => value >= 10000 ? (value / 1000).toFixed(1) + " s" : value >= 100 ? Math.round(value) + " ms" : value.toFixed(1) + " ms";
const number = (value) => (value ?? 0).toLocaleString("en");
const plural = (count, one, more) => number(count) + " " + (count === 1 ? one : more);
const kindOf = (status) => status >= 500 ? "bad" : status >= 400 ? "warn" : status ? "good" : "";
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
const day = (seconds) => new Date(seconds * 1000).toLocaleDateString([], { day: "numeric", month: "short" });
const when = (seconds) => (day(seconds) === day(Date.now() / 1000) ? "" : day(seconds) + " ") + clock(seconds);
const empty = (...text) => h("p", { class: "empty" }, text);
const code = (text) => h("code", null, text);

/* A table; its roles are stated because the narrow layout takes the elements' own away. */
function table(kind, label, columns, rows) {
  const head = columns.map(([text, style]) => h("th", { role: "columnheader", scope: "col", class: style }, text));
  const cells = (row) => row.map((content, index) => h("td", { role: "cell", class: columns[index][1], "data-label": columns[index][0] }, content));
  return h("table", { role: "table", class: kind, "aria-label": label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" }, cells(row)))));
}

function tiles(state) {
  const load = Object.values(state.load), broker = state.broker || {};
  const sum = (pick) => load.reduce((total, one) => total + pick(one), 0);
  const instances = state.functions.flatMap((one) => one.revisions).reduce((total, one) => total + one.instances, 0);
  const inside = (value, text) => [h("b", null, number(value)), h("span", null, text)];
  const tile = (value, text, kind) => h("div", { class: "tile " + (kind || "") }, inside(value, text));
  const dead = h("a", { class: "tile bad", href: "#dead", "data-key": "dead" }, inside(broker.dead, "dead letters"));
  return [
    tile(state.functions.length, "functions"), tile(instances, "instances running"),
    tile(sum((one) => one.in_flight), "requests in flight"), tile(sum((one) => one.held), "requests held", sum((one) => one.held) ? "warn" : ""),
    tile((broker.pending || 0) + (broker.retrying || 0), "events to deliver"), broker.dead ? dead : tile(0, "dead letters"),
  ];
}

/* Functions. */
function link(url) {
  return /^http:\/\//.test(url) ? h("a", { href: url, rel: "noreferrer", "data-key": url }, url) : soft(url);
}
const REVISION_COLUMNS = [["revision", "revision mono"], ["traffic", "n"], ["tags", "tags"], ["instances", "n"], ["in flight", "n"], ["requests", "n"], ["models", "models mono"], ["state", "state"]];
const reachable = (revision) => revision.percent > 0 || revision.tags.length > 0;
function condition(revision, load) {
  if (!revision.ready) return pill("bad", "not ready");
  if (reachable(revision)) return pill("good", "ready");
  return load?.in_flight ? pill("warn", "draining") : pill("", "no traffic");
}
function revisionRow(revision, load, colour) {
  const swatch = colour === null ? null : h("span", { class: "swatch c" + colour, "aria-hidden": "true" });
  return [
    [swatch, revision.name], revision.percent + " %", revision.tags.map((tag) => pill("", tag)),
    revision.instances ? number(revision.instances) : soft(load?.in_flight ? "ending" : "at zero"),
    number(load?.in_flight), number(load?.requests), Object.values(revision.models).join(", "), condition(revision, load),
  ];
}
function splitBar(parts) {
  return h("div", { class: "split", "aria-hidden": "true" }, parts.map((revision, index) => {
    const part = h("div", { class: "c" + index, title: revision.name }, revision.percent + " %");
    part.style.width = revision.percent + "%";
    return part;
  }));
}
function triggersLine(triggers) {
  const text = (filter) => Object.entries(filter).map(([name, value]) => name === "type" ? value || "any type" : name + "=" + (value || "any")).join(", ");
  return h("p", { class: "triggers" }, "takes events", triggers.map((one) =>
    [code(text(one.filter) || "all"), one.broker === "default" ? null : "of broker " + one.broker]));
}
/* What the reader has opened stays open when its card is drawn anew. */
const opened = new Set();
function older(name, revisions, load) {
  const box = h("details", opened.has(name) ? { open: "" } : null,
    h("summary", { "data-key": "older " + name }, plural(revisions.length, "revision", "revisions") + " without traffic"),
    table("revisions", "revisions of " + name + " without traffic", REVISION_COLUMNS, revisions.map((revision) => revisionRow(revision, load[revision.name], null))));
  box.addEventListener("toggle", () => box.open ? opened.add(name) : opened.delete(name));
  return box;
}
function card(one, load, triggers) {
  const busy = (revision) => reachable(revision) || revision.instances || load[revision.name]?.in_flight;
  const live = one.revisions.filter(busy), listed = live.length ? live : one.revisions.slice(0, 1);
  const parts = listed.filter((revision) => revision.percent), rest = one.revisions.filter((revision) => !listed.includes(revision));
  const colour = (revision) => parts.length > 1 && revision.percent ? parts.indexOf(revision) : null;
  const reasons = listed.filter((revision) => revision.reason).map((revision) => revision.name + ": " + revision.reason);
  return h("article", { class: "card" },
    h("div", { class: "head" }, h("h3", null, one.name), link(one.url), one.ready ? null : pill("bad", "not ready")),
    (reasons.length ? reasons : [one.reason].filter(Boolean)).map((text) => h("p", { class: "reason" }, text)),
    triggers.length ? triggersLine(triggers) : null,
    parts.length > 1 ? splitBar(parts) : null,
    table("revisions", "revisions of " + one.name, REVISION_COLUMNS, listed.map((revision) => revisionRow(revision, load[revision.name], colour(revision)))),
    rest.length ? older(one.name, rest, load) : null);
}
function removed(functions, load) {
  const known = new Set(functions.flatMap((one) => one.revisions).map((revision) => revision.name));
  const left = Object.keys(load).filter((name) => !known.has(name) && load[name].in_flight);
  return left.length ? h("article", { class: "card" }, h("div", { class: "head" }, h("h3", null, "No longer deployed")),
    h("ul", { class: "list" }, left.map((name) => h("li", null, h("div", { class: "line" }, h("span", { class: "mono" }, name),
      h("span", null, plural(load[name].in_flight, "request", "requests") + " in flight ", pill("warn", "draining"))))))) : null;
}
function cards(state) {
  const found = state.functions.map((one) => card(one, state.load, state.triggers.filter((trigger) => trigger.function === one.name)));
  const none = h("div", { class: "card" }, empty("No function is deployed yet. Deploy one: ", code("shoal deploy functions/hello")));
  return [found.length ? found : none, removed(state.functions, state.load)].flat().filter(Boolean);
}

/* Recent requests. */
const kindOfBar = (one) => one.status >= 500 ? "bad" : one.status >= 400 ? "refused" : one.held_ms > HELD_MS ? "warn" : "";
function bars(recent, decades) {
  const svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const drawing = svg("svg", { viewBox: `0 0 ${BARS} 100`, preserveAspectRatio: "none", role: "img", "aria-label": "durations of the newest requests, on a logarithmic scale" });
  recent.forEach((one, index) => {
    const tall = Math.max(1.5, Math.min(1, (Math.log10(Math.max(one.ms, 1e-3)) - LOWEST) / decades) * 100);
    const bar = svg("rect", { x: BARS - 1 - index + .12, y: 100 - tall, width: .76, height: tall, class: kindOfBar(one) }), title = svg("title", {});
    title.textContent = `${clock(one.time)} ${one.revision || one.function} ${one.status}: ${ms(one.ms)}` + (one.held_ms > 1 ? `, held ${ms(one.held_ms)}` : "");
    bar.append(title);
    drawing.append(bar);
  });
  return drawing;
}
function chart(all) {
  const recent = all.slice(0, BARS), longest = Math.max(...recent.map((one) => one.ms));
  const top = Math.max(2, Math.ceil(Math.log10(Math.max(longest, 1)))), decades = top - LOWEST;
  const ticks = Array.from({ length: decades }, (_, index) => index + LOWEST + 1);
  const at = (tick, node) => { node.style.bottom = (tick - LOWEST) / decades * 100 + "%"; return node; };
  const label = (tick) => tick < 3 ? 10 ** tick + " ms" : 10 ** (tick - 3) + " s";
  return h("div", { class: "chart" },
    h("div", { class: "title" }, "Duration of each request, on a logarithmic scale"),
    h("div", { class: "axis", "aria-hidden": "true" }, ticks.map((tick) => at(tick, h("span", null, label(tick))))),
    h("div", { class: "plot" }, ticks.map((tick) => at(tick, h("div"))), bars(recent, decades)),
    h("div", { class: "ends" }, h("span", null, BARS + " requests ago"), h("span", null, "newest")));
}
const REQUEST_COLUMNS = [["time", "time soft"], ["revision", "revision mono"], ["request", "path mono"], ["status", "status"], ["duration", "n"], ["held", "held"]];
function requestRow(one) {
  return [
    clock(one.time), one.revision || one.function || soft("–"),
    [one.method + " " + one.path, one.reason ? h("div", { class: "soft" }, one.reason) : null],
    pill(kindOf(one.status), String(one.status || "…")), ms(one.ms), one.held_ms > 1 ? pill(one.held_ms > HELD_MS ? "warn" : "", ms(one.held_ms) + " held") : null,
  ];
}
function recentCard(recent) {
  if (!recent.length) return empty("Nothing yet. Try ", code("shoal invoke hello"));
  const entry = (kind, text) => h("span", null, h("i", { class: kind }), text);
  return [chart(recent),
    h("div", { class: "key" }, entry("", "answered"), entry("warn", "held while a function woke"), entry("refused", "refused (4xx)"), entry("bad", "failed (5xx)")),
    table("requests", "recent requests", REQUEST_COLUMNS, recent.slice(0, SHOWN).map(requestRow))];
}

/* Models, events, parts of the platform. */
const item = (name, kind, state, ...more) => h("li", null, h("div", { class: "line" }, name, pill(kind, state)), more.filter(Boolean).map((text) => h("div", { class: "more" }, text)));
function models(found) {
  const names = Object.keys(found).sort(), short = { READY: "good", LOADING: "warn" };
  if (!names.length) return empty("The pool holds no model.");
  return h("ul", { class: "list" }, names.map((name) => item(h("span", { class: "mono" }, name), short[found[name]] || "bad",
    short[found[name]] ? found[name].toLowerCase() : "failed", short[found[name]] ? "" : found[name])));
}
function events(broker) {
  if (!broker) return empty("The broker does not answer.");
  const names = { accepted: "accepted", delivered: "delivered", pending: "waiting", retrying: "retrying", held: "waiting for triggers", dropped: "dropped, trigger gone", dead: "dead letters" };
  return h("dl", null, Object.entries(names).map(([key, text]) => [h("dt", null, text), h("dd", null, number(broker[key]))]));
}
function platform(components) {
  if (!components.length) return empty("The node does not answer.");
  return h("ul", { class: "list" }, components.map((one) => item(h("b", null, one.name), one.ready ? "good" : "bad", one.ready ? "ready" : "down",
    one.detail, one.address ? h("span", { class: "mono" }, one.address) : "", one.restarts ? "restarted " + plural(one.restarts, "time", "times") : "")));
}

/* Dead letters, while the address ends in #dead. */
const LETTER_COLUMNS = [["when", "time soft"], ["id", "id mono"], ["type", "kind mono"], ["source", "source mono"], ["function", "function"], ["attempts", "n"], ["reason", "why"]];
function letters(found, total) {
  const rows = found.dead.map((one) => [when(one.time), one.id, one.type, one.source, one.function, number(one.attempts), one.reason]);
  const more = total > rows.length ? soft("the newest " + number(rows.length) + " of " + number(total)) : null;
  return h("div", { class: "card" },
    h("div", { class: "head" }, h("h3", null, "Dead letters"), more, h("a", { class: "close", href: "#", "data-key": "close" }, "close")),
    found.problems.map((text) => h("p", { class: "reason" }, text)),
    rows.length ? table("letters", "dead letters", LETTER_COLUMNS, rows) : found.problems.length ? null : empty("There is none."));
}
async function showDead(total) {
  const wanted = location.hash === "#dead";
  if (wanted) {
    const found = await read("/_page/dead");
    put("dead", [found, total], () => letters(found, total));
  }
  if ($("dead").hidden === wanted) {
    $("dead").hidden = !wanted;
    if (wanted) $("dead").focus();
  }
}

function show(state) {
  put("notice", state.problems, () => state.problems.map((text) => h("p", { class: "notice" }, text)));
  put("tiles", [state.load, state.broker, state.functions], () => tiles(state));
  put("cards", [state.functions, state.load, state.triggers], () => cards(state));
  put("recent", state.recent, () => recentCard(state.recent));
  put("models", state.models, () => models(state.models));
  put("events", state.broker, () => events(state.broker));
  put("platform", state.components, () => platform(state.components));
}
function say(kind, text) {
  $("dot").className = "dot " + kind;
  if ($("live").textContent !== text) $("live").textContent = text;
}
async function read(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error("status " + answer.status);
  return answer.json();
}
let turn = 0;
async function poll() {
  const mine = ++turn;
  if (!document.hidden) {
    try {
      const state = await read("/_page/state");
      show(state);
      await showDead(state.broker?.dead ?? 0);
      say(state.problems.length ? "warn" : "good", state.problems.length ? "live, in part" : "live");
    } catch (error) {
      say("bad", "the gateway does not answer; trying again");
    }
  }
  if (mine === turn) setTimeout(() => mine === turn && poll(), POLL_MS);
}
addEventListener("hashchange", poll);
document.addEventListener("visibilitychange", poll);
poll();

// The run's page: its cards are drawn from JSON islands, as far as they are looked at (`shell.js` stands before this).

const BATCH = 100;
const LAZY_FROM = 200;
const HUES = ["#00d5ff", "#ff5fd2", "#c6ff3d", "#ffb020", "#9d8bff", "#3dffb0"];
const SVG = "http://www.w3.org/2000/svg";

const parsed = (id) => JSON.parse(byId(id).textContent);
const words = (name) => name.replaceAll("_", " ");
const fixed = (value) => (value === null ? "–" : value.toFixed(2));

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Images lie in islands that are parsed when the first picture of theirs is drawn.
const islands = new Map();
function imageAt([island, index]) {
  if (!islands.has(island)) islands.set(island, parsed(`images-${island}`));
  return islands.get(island)[index];
}

function labelText(found) {
  const name = found.color ? `${found.color} ${found.name}` : found.name;
  return found.score === null ? name : `${name} ${found.score.toFixed(2)}`;
}

// A free place for each label: over, under or inside its box, whichever first covers no other label.
function placeLabels(picture, shownPx) {
  const scale = shownPx / picture.width_px;
  const heightPx = picture.height_px * scale;
  const taken = [];
  return picture.objects.map((found) => {
    const [x0, y0, x1, y1] = found.box.map((value) => value * scale);
    const width = 6 * labelText(found).length + 14;
    const lefts = [x0, x1 - width, (x0 + x1 - width) / 2].map((x) => Math.max(0, Math.min(x, shownPx - width)));
    const tops = [y0 - 18, y1 + 2, y0 + 2, y1 - 18, y0 - 36, y1 + 20].map((y) => Math.max(0, Math.min(y, heightPx - 16)));
    const places = tops.flatMap((top) => lefts.map((left) => ({ left, top, right: left + width, bottom: top + 16 })));
    const free = (a) => taken.every((b) => a.right <= b.left || a.left >= b.right || a.bottom <= b.top || a.top >= b.bottom);
    const place = places.find(free) ?? places[0];
    taken.push(place);
    return { left: (100 * place.left) / shownPx, top: (100 * place.top) / heightPx, width };
  });
}

// Masks as a spotlight: what no mask covers is dimmed, so that the colours under a mask stay those of the image.
let spotlights = 0;
function maskLayer(picture, size) {
  const id = `spotlight-${spotlights++}`;
  const cover = { x: 0, y: 0, width: picture.width_px, height: picture.height_px };
  const holes = svg("mask", { id, maskUnits: "userSpaceOnUse", ...cover }, svg("rect", { ...cover, class: "lit" }));
  const layer = svg("svg", { viewBox: size, class: "masks", "aria-hidden": "true" }, holes, svg("rect", { ...cover, class: "dim", mask: `url(#${id})` }));
  picture.objects.forEach((found, index) => {
    if (!found.outline) return;
    const [across, down] = [picture.width_px / found.grid[0], picture.height_px / found.grid[1]];
    const path = { d: found.outline, "fill-rule": "evenodd", transform: `scale(${across} ${down})` };
    holes.append(svg("path", { ...path, class: "hole" }));
    const edge = svg("path", { ...path, class: "edge" });
    edge.style.setProperty("--hue", HUES[index % HUES.length]);
    layer.append(edge);
  });
  return layer;
}

function overlay(picture, shownPx) {
  const size = `0 0 ${picture.width_px} ${picture.height_px}`;
  const boxes = svg("svg", { viewBox: size, class: "boxes", "aria-hidden": "true" });
  const masks = maskLayer(picture, size);
  const layer = el("div", { class: "overlay" }, masks, boxes);
  const places = placeLabels(picture, shownPx);
  picture.objects.forEach((found, index) => {
    const hue = HUES[index % HUES.length];
    const [x, y, x1, y1] = found.box;
    const shape = { x, y, width: Math.max(x1 - x, 0), height: Math.max(y1 - y, 0) };
    boxes.append(svg("rect", { ...shape, class: "casing" }));
    const box = svg("rect", { ...shape, class: "box" });
    box.style.setProperty("--hue", hue);
    boxes.append(box);
    const label = el("span", { class: "label" }, labelText(found));
    label.style.setProperty("--hue", hue);
    label.style.left = `max(0px, min(${places[index].left}%, 100% - ${places[index].width}px))`; // on a phone, too
    label.style.top = `${places[index].top}%`;
    layer.append(label);
  });
  return layer;
}

const verdictOf = (picture) => (picture.correct === null ? "unchecked" : picture.correct ? "right" : "wrong");

function imageOf(picture, what, shownPx) {
  if (picture.uri === null) return [el("span", { class: "gone" }, "image not kept")];
  const found = picture.objects.map(labelText).join(", ") || "nothing";
  const tiny = Math.max(picture.width_px, picture.height_px) <= 64;
  const image = el("img", {
    src: imageAt(picture.uri), width: picture.width_px, height: picture.height_px, decoding: "async", alt: `${what}; found: ${found}`,
  });
  if (tiny) image.className = "tiny";
  return [image, overlay(picture, shownPx)];
}

function frame(picture, what, card, shownPx) {
  const button = el("button", { type: "button", class: "frame look", "aria-label": `${what}, ${verdictOf(picture)}: look closer` });
  button.append(...imageOf(picture, what, shownPx));
  closer.set(button, () => largeView(card, picture, what));
  return button;
}

function reasonList(picture) {
  const rewards = picture.rewards.map(([scorer, value]) => `${scorer} ${value === null ? "–" : value.toPrecision(4)}`);
  const lines = [...picture.reasons, ...rewards];
  return lines.length ? el("ul", { class: "reasons" }, ...lines.map((line) => el("li", { dir: "auto" }, line))) : null;
}

function shot(picture, side, card) {
  const what = `${side === "bad" ? "Bad" : "Good"} image, candidate ${picture.index}`;
  const mark = { right: "✓ right", wrong: "✕ wrong", unchecked: side === "bad" ? "worse" : "better" }[verdictOf(picture)];
  const score = picture.score === null ? "" : `score ${fixed(picture.score)}`;
  const caption = el("figcaption", {}, el("p", { class: "verdict" }, el("b", {}, mark), el("span", {}, score)));
  const reasons = reasonList(picture);
  if (reasons) caption.append(reasons);
  return el("figure", { class: `shot ${side}` }, frame(picture, what, card, 224), caption);
}

function arrow(card) {
  const alike = card.likeness === null ? "" : `likeness ${fixed(card.likeness)} by ${card.likeness_by}`;
  const by = [card.annotator && `written by ${card.annotator}`, card.paired_by && `paired by ${card.paired_by}`, alike].filter(Boolean).join(" · ");
  const node = el("div", { class: "arrow" }, el("blockquote", { dir: "auto" }, card.reflection || "no reflection"), el("div", { class: "line" }), el("p", { class: "hint" }, by));
  if (card.analysis) node.append(el("details", {}, el("summary", {}, "analysis"), el("p", { dir: "auto" }, card.analysis)));
  return node;
}

function heading(card) {
  const asked = card.share === null ? card.difficulty : `${card.difficulty} ${Math.round(card.share * card.marks.length)}/${card.marks.length} right`;
  const checked = card.marks.some((mark) => mark !== null);
  const dots = (checked ? card.marks : []).map((mark) => el("i", { class: mark === null ? "" : mark ? "right" : "wrong" }));
  const chips = el("div", { class: "chips" });
  if (card.reason) chips.append(el("span", { class: "chip reason" }, words(card.reason)));
  if (card.tag) chips.append(el("span", { class: "chip" }, words(card.tag)));
  chips.append(el("span", { class: "chip" }, card.subset));
  if (dots.length) chips.append(el("span", { class: "marks", "aria-hidden": "true" }, ...dots));
  if (asked) chips.append(el("span", {}, asked));
  chips.append(el("span", { class: "id", title: `unit ${card.unit}` }, card.key ?? card.prompt_id));
  return el("header", {}, el("p", { class: "prompt", dir: "auto" }, card.prompt), chips);
}

function pairCard(card) {
  const duo = el("div", { class: "duo" }, shot(card.bad, "bad", card), arrow(card), shot(card.good, "good", card));
  return el("article", { class: "card pair" }, heading(card), duo);
}

function promptCard(card) {
  const node = el("article", { class: `card turned-down ${card.outcome}` }, heading(card));
  const why = `${words(card.stage)}: ${card.detail || words(card.reason)}`;
  node.append(el("p", { class: "hint trace", dir: "auto" }, why));
  if (card.trace) node.append(el("details", { class: "trace" }, el("summary", {}, "Traceback"), el("pre", {}, card.trace)));
  const strip = card.pictures.map((picture) => {
    const verdict = verdictOf(picture);
    const mark = { right: "✓", wrong: "✕", unchecked: "" }[verdict];
    const score = picture.score === null ? `no. ${picture.index}` : fixed(picture.score);
    const caption = el("figcaption", {}, el("b", { class: `${verdict}-text` }, mark), ` ${score}`);
    const figure = el("figure", { class: `shot ${verdict}`, title: picture.reasons.join("; ") });
    figure.append(frame(picture, `Candidate ${picture.index}`, card, 80), caption);
    return figure;
  });
  if (strip.length) {
    const row = el("div", { class: "strip" }, ...strip);
    row.style.setProperty("--across", Math.max(5, Math.min(strip.length, 10)));
    node.append(row);
  }
  return node;
}

function largeView(card, picture, what) {
  const rows = [
    ["verdict", `${verdictOf(picture)}${picture.score === null ? "" : `, score ${picture.score}`}`], ["seed", picture.seed],
    ["size", `${picture.width_px} × ${picture.height_px} px`],
  ];
  if (picture.text !== card.prompt) rows.push(["drawn from", picture.text]);
  picture.objects.forEach((found, index) => rows.push([index ? "" : "found", labelText(found)]));
  const list = el("dl", { class: "list" }, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", { dir: "auto" }, value)]));
  const about = el("div", { class: "about" }, el("h2", { id: "viewer-title" }, what), el("p", { class: "prompt", dir: "auto" }, card.prompt), list);
  const reasons = reasonList(picture);
  if (reasons) about.append(reasons);
  return el("div", { class: "large" }, el("div", {}, el("div", { class: "frame" }, ...imageOf(picture, what, 540))), about);
}

// Filters

const { pairs, prompts } = parsed("cards");
const cards = [...pairs.map((card) => ({ ...card, outcome: "shipped" })), ...prompts];
for (const card of cards) {
  const pictures = card.pictures ?? [card.bad, card.good];
  const texts = [card.prompt, card.prompt_id, card.key, card.reason, card.detail, card.reflection, ...pictures.flatMap((picture) => picture.reasons)];
  card.searched = texts.filter(Boolean).join("\n").toLowerCase();
}
const built = new Map();
let filters = {};
let limit = 0;

// Prompts without a tag can be chosen as well.
const NONE = "(none)";
const shownAs = (value) => value || NONE;

function counted(field) {
  const counts = new Map();
  for (const card of cards) counts.set(shownAs(card[field]), (counts.get(shownAs(card[field])) ?? 0) + 1);
  return [...counts].sort(([a], [b]) => (a < b ? -1 : 1));
}

function matching() {
  const wanted = filters.text.toLowerCase().split(/\s+/).filter(Boolean);
  const same = (card) => ["outcome", "tag", "subset", "difficulty"].every((field) => !filters[field] || shownAs(card[field]) === filters[field]);
  const found = cards.filter((card) => same(card) && wanted.every((word) => card.searched.includes(word)));
  if (!filters.order) return found;
  const likeness = (card) => card.likeness ?? -Infinity; // what was not measured comes last, whatever the order
  const sign = filters.order === "most" ? 1 : -1;
  return found.sort((a, b) => (likeness(a) === -Infinity) - (likeness(b) === -Infinity) || sign * (likeness(b) - likeness(a)) || 0);
}

function draw(more = false) {
  const found = matching();
  if (!more) limit = found.length > LAZY_FROM ? BATCH : found.length;
  const shown = found.slice(0, limit).map((card) => {
    if (!built.has(card)) built.set(card, card.outcome === "shipped" ? pairCard(card) : promptCard(card));
    return built.get(card);
  });
  byId("gallery").replaceChildren(...shown);
  byId("nothing").hidden = found.length > 0;
  const numPairs = found.filter((card) => card.outcome === "shipped").length;
  const numPrompts = found.length - numPairs;
  const many = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  byId("count").textContent = `${many(numPairs, "pair")} and ${many(numPrompts, "other prompt")} match`;
  byId("more").hidden = limit >= found.length;
  byId("more").textContent = `Show ${Math.min(BATCH, found.length - limit)} more of ${(found.length - limit).toLocaleString("en")}`;
}

for (const field of ["tag", "subset", "difficulty"]) {
  const values = counted(field);
  byId(field).append(el("option", { value: "" }, "all"), ...values.map(([value, count]) => el("option", { value }, `${value === NONE ? `no ${field}` : words(value)} (${count})`)));
  byId(field).closest("label").hidden = values.length < 2;
}
byId("order").closest("label").hidden = cards.every((card) => (card.likeness ?? null) === null);
const outcomes = [["", cards.length], ...["shipped", "rejected", "quarantined"].map((name) => [name, cards.filter((card) => card.outcome === name).length])];
for (const [name, count] of outcomes.filter(([value, number]) => !value || number)) {
  const input = el("input", { type: "radio", name: "outcome", value: name, ...(name ? {} : { checked: "" }) });
  byId("outcome").append(el("label", {}, input, el("span", {}, { "": "All", shipped: "Pairs", rejected: "Rejected", quarantined: "Quarantine" }[name], " ", el("small", {}, count.toLocaleString("en")))));
}
byId("more").addEventListener("click", () => { limit += BATCH; draw(true); });
for (const [id, name] of [["show-boxes", "boxes"], ["show-masks", "masks"], ["show-good", "good-too"]]) {
  const apply = () => document.body.classList.toggle(name, byId(id).checked);
  byId(id).addEventListener("change", apply);
  apply(); // the browser may have kept a switch's state over a reload
}
keepInAddress(byId("filters"), (chosen) => { filters = chosen; draw(); });

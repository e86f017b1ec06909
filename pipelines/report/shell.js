"use strict";
// What every page does: pictures open in a dialog that the arrow keys walk through, and filters stay in the address.
// Everything that comes from a run is put into the page as text nodes and attributes, never as markup.

const byId = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

// Pictures: each button.look. `closer` has a function for those of which there is more to say than the page shows.

const closer = new WeakMap();
let looked = null;

const pictures = () => [...document.querySelectorAll("main button.look")].filter((button) => button.offsetParent !== null);

// A server's page: the picture itself, what is written below it, and the heading of what it belongs to.
function fromFigure(button) {
  const image = button.querySelector("img");
  const figure = button.closest("figure");
  const heading = (button.closest("[data-item] :has([data-prompt]), [data-item]")?.querySelector("[data-prompt]") ?? document.querySelector("h1")).textContent;
  const about = el("div", { class: "about" }, el("h2", { id: "viewer-title" }, image.alt), el("p", { class: "prompt", dir: "auto" }, heading));
  const said = figure?.querySelector("figcaption");
  if (said) {
    const copy = said.cloneNode(true);
    for (const repeated of copy.querySelectorAll("[data-prompt]")) repeated.remove();
    for (const details of copy.querySelectorAll("details")) details.open = true;
    about.append(...copy.childNodes);
  }
  return el("div", { class: "large" }, el("div", {}, el("div", { class: "frame" }, image.cloneNode())), about);
}

function look(button) {
  looked = button;
  const all = pictures();
  const at = all.indexOf(button);
  byId("viewer-body").replaceChildren((closer.get(button) ?? fromFigure)(button));
  byId("place").textContent = `${at + 1} of ${all.length}`;
  byId("earlier").disabled = at <= 0;
  byId("later").disabled = at >= all.length - 1 && !hasMore();
  if (!byId("viewer").open) byId("viewer").showModal();
  byId("viewer").scrollTop = 0;
}

const hasMore = () => byId("more") !== null && !byId("more").hidden;

function step(by) {
  let all = pictures();
  const at = all.indexOf(looked) + by;
  if (at >= all.length && hasMore()) {
    byId("more").click();
    all = pictures();
  }
  if (all[at]) look(all[at]);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("main button.look");
  if (button) look(button);
});
byId("viewer").addEventListener("click", (event) => { if (event.target === byId("viewer")) byId("viewer").close(); });
byId("close").addEventListener("click", () => byId("viewer").close());
byId("earlier").addEventListener("click", () => step(-1));
byId("later").addEventListener("click", () => step(1));
byId("viewer").addEventListener("close", () => { looked?.focus(); });
document.addEventListener("keydown", (event) => { // of the document, since a button that is disabled loses the focus
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!byId("viewer").open || by === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  step(by);
});

// Filters: the named controls of a form, as `#tag=counting&text=ring`. What an address asks for and the page does not
// have is passed over; `#pictures` is a place on the page, and leaves them as they are.

function keepInAddress(form, draw) {
  const names = Object.keys(values(form));
  const apply = () => {
    const asked = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const name of names) set(form, name, asked.get(name) ?? "");
    draw(values(form));
  };
  form.addEventListener("input", () => {
    const chosen = Object.entries(values(form)).filter(([, value]) => value);
    history.replaceState(null, "", chosen.length ? `#${new URLSearchParams(chosen)}` : location.pathname + location.search);
    draw(values(form));
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => { if (location.hash.includes("=")) apply(); });
  apply();
  if (location.hash.includes("=")) form.scrollIntoView();
}

const values = (form) => Object.fromEntries(new FormData(form));

function set(form, name, value) {
  const controls = [...form.elements].filter((control) => control.name === name);
  if (controls[0].type === "radio") {
    (controls.find((control) => control.value === value) ?? controls[0]).checked = true;
    return;
  }
  controls[0].value = value;
  if (controls[0].value !== value) controls[0].value = "";
}

// A server's page hides what does not match. The text is looked for in all that an element shows.
function hideOthers(form) {
  const items = [...document.querySelectorAll("[data-item]")];
  const texts = items.map((item) => item.textContent.toLowerCase());
  const many = (count) => `${count.toLocaleString("en")} of ${items.length.toLocaleString("en")} match`;
  keepInAddress(form, ({ text, ...chosen }) => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    items.forEach((item, index) => {
      const same = Object.entries(chosen).every(([name, value]) => !value || item.dataset[name] === value || item.dataset[name].split("\n").includes(value));
      item.hidden = !(same && words.every((word) => texts[index].includes(word)));
      count += item.hidden ? 0 : 1;
    });
    byId("count").textContent = many(count);
    if (byId("nothing")) byId("nothing").hidden = count > 0;
  });
}

if (byId("filters")?.hasAttribute("data-hides")) hideOthers(byId("filters"));

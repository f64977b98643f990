// Make every slide fit its sheet, then start the show; with ?handout, leave the sheets one below the other for printing.
//
// A slide that is too full gets, in this order: lower figures, smaller letters, a second sheet; and what alone is too
// large for a sheet shrinks until it fits. All is measured, after the formulas are set. Nothing depends on the window:
// reveal.js enlarges the finished sheet.
const FIGURES = [560, 480, 400, 330]; // the highest a figure may be, in pixels
const READABLE = 0.8; // letters do not get smaller than this as long as another sheet helps
const LEAST = 0.3;

const overflows = (box) => box.scrollHeight > box.clientHeight || box.scrollWidth > box.clientWidth;

// Lines too long for the sheet: letters a little smaller, then continued on the next line.
function narrow(pre) {
  pre.style.zoom = 1;
  pre.classList.remove("wrapped");
  const room = pre.clientWidth / pre.scrollWidth;
  if (room < 1) pre.style.zoom = Math.max(room * 0.995, READABLE);
  if (pre.scrollWidth > pre.clientWidth) pre.classList.add("wrapped");
}

function set(page, figure, zoom) {
  page.style.setProperty("--figure", `${figure}px`);
  page.firstElementChild.style.zoom = zoom;
  page.querySelectorAll("pre").forEach(narrow);
  return !overflows(page);
}

// Try lower figures at full size, then smaller letters down to `least`; whether the page fits.
function fit(page, least) {
  const figures = page.querySelector("img") ? FIGURES : FIGURES.slice(0, 1);
  if (figures.some((figure) => set(page, figure, 1))) return true;
  for (let zoom = 0.95; zoom > least - 0.01; zoom -= 0.05) {
    if (set(page, figures.at(-1), zoom)) return true;
  }
  return false;
}

// A heading, folded code and printed lines stay with what they belong to.
const leads = (block) => block && (/^H\d$/.test(block.tagName) || block.matches(".leads"));

// Take blocks off the end of a page until it fits, and put them on a sheet of their own, under the same heading.
function split(slide) {
  const page = slide.querySelector(".page");
  const flow = page.firstElementChild;
  if (fit(page, READABLE)) return;
  const moved = [];
  const first = /^H\d$/.test(flow.firstElementChild?.tagName) ? 2 : 1; // a heading and one block stay
  while (flow.children.length > first && !fit(page, READABLE)) {
    do moved.unshift(flow.lastElementChild.parentNode.removeChild(flow.lastElementChild));
    while (flow.children.length > first && leads(flow.lastElementChild));
  }
  fit(page, LEAST);
  if (!moved.length) return;
  const next = slide.cloneNode(true);
  next.removeAttribute("id");
  next.classList.remove("first");
  const rest = next.querySelector(".page").firstElementChild;
  rest.replaceChildren(...(first === 2 && !/^H\d$/.test(moved[0].tagName) ? [rest.firstElementChild] : []), ...moved);
  slide.after(next);
  split(next);
}

function start() {
  document.querySelectorAll("section.slide").forEach(split);
  document.addEventListener(
    "toggle", // an answer or code that is unfolded wants room
    (event) => fit(event.target.closest(".page"), LEAST),
    true,
  );
  if (new URLSearchParams(location.search).has("handout")) {
    document.documentElement.classList.add("handout");
    return;
  }
  document.querySelector(".deck").classList.add("reveal");
  return Reveal.initialize({
    width: 1280,
    height: 800,
    margin: 0,
    center: false,
    hash: true,
    transition: "none",
    slideNumber: "c/t",
    controlsLayout: "edges",
    plugins: [RevealNotes],
  });
}

const loaded = new Promise((done) => window.addEventListener("load", done)); // pictures have their sizes by then

loaded
  .then(() => MathJax.startup.promise)
  .then(() => document.fonts.ready)
  .then(start)
  .then(() => (document.documentElement.dataset.ready = "yes"));

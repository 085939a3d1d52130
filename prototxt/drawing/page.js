"use strict";
(() => {
  const data = JSON.parse(document.getElementById("layers").textContent);
  const view = document.getElementById("view"), svg = view.querySelector("svg");
  const field = document.getElementById("search"), found = document.getElementById("found");
  const side = document.querySelector("aside"), root = document.documentElement;
  // all layers first, then the overview if there is one
  const drawings = [...svg.querySelectorAll(".world")].map((world, i) => ({
    world, layers: data[i], width: +world.dataset.width, height: +world.dataset.height,
    nodes: [...world.querySelectorAll(".node")], edges: [...world.querySelectorAll(".edge")],
  }));
  const fold = document.querySelector("button[data-do=fold]");
  let now = drawings[drawings.length - 1];
  let at = { x: 0, y: 0, scale: 1 }, hits = [], hit = -1, chosen = -1;

  const show = () => now.world.setAttribute("transform", `translate(${at.x} ${at.y}) scale(${at.scale})`);
  const zoom = (factor, x = view.clientWidth / 2, y = view.clientHeight / 2) => {
    const scale = Math.min(6, Math.max(0.02, at.scale * factor)), ratio = scale / at.scale;
    at = { x: x - (x - at.x) * ratio, y: y - (y - at.y) * ratio, scale };
    show();
  };
  const fit = (whole) => {
    const across = view.clientWidth / (now.width + 40), down = view.clientHeight / (now.height + 40);
    const scale = Math.min(1.2, whole ? Math.min(across, down) : across);
    const low = (view.clientHeight - now.height * scale) / 2;
    at = { x: (view.clientWidth - now.width * scale) / 2, y: Math.max(20 * scale, low), scale };
    if (whole) at.y = low;
    show();
  };
  const centre = (number) => {
    const box = now.nodes[number].querySelector("rect"), spot = now.nodes[number].transform.baseVal[0].matrix;
    const x = spot.e + box.width.baseVal.value / 2, y = spot.f + box.height.baseVal.value / 2;
    at.scale = Math.max(at.scale, 0.7);
    at.x = view.clientWidth / 2 - x * at.scale;
    at.y = view.clientHeight / 2 - y * at.scale;
    show();
  };

  const make = (tag, text, parent) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };
  const choose = (number) => {
    chosen = number;
    now.nodes.forEach((node, i) => node.classList.toggle("chosen", i === number));
    now.edges.forEach((edge) => edge.classList.toggle("near", +edge.dataset.s === number || +edge.dataset.t === number));
    side.hidden = number < 0;
    if (number < 0) return;
    side.replaceChildren();
    const layer = now.layers[number];
    make("h2", layer.title, side);
    if (layer.boxes) make("button", "show these layers", side).addEventListener("click", () => unfold(layer));
    for (const row of layer.rows) {
      if (layer.rows.length > 1) make("h3", row.name || "(unnamed)", side);
      const list = make("dl", undefined, side);
      for (const [key, value] of row.facts) { make("dt", key, list); make("dd", value, list); }
    }
  };

  const search = () => {
    const words = field.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    hits = [];
    now.nodes.forEach((node, i) => {
      const fits = words.length > 0 && words.every((word) => now.layers[i].search.includes(word));
      node.classList.toggle("hit", fits);
      if (fits) hits.push(i);
    });
    hit = -1;
    found.textContent = words.length ? `${hits.length} found` : "";
  };
  const step = (by) => {
    if (!hits.length) return;
    hit = (hit + by + hits.length) % hits.length;
    found.textContent = `${hit + 1} of ${hits.length}`;
    choose(hits[hit]);
    centre(hits[hit]);
  };
  const follow = (down) => {
    if (chosen < 0) { choose(0); centre(0); return; }
    const edge = now.edges.find((e) => +(down ? e.dataset.s : e.dataset.t) === chosen);
    if (!edge) return;
    choose(+(down ? edge.dataset.t : edge.dataset.s));
    centre(chosen);
  };
  const open = (number, whole) => {
    choose(-1);
    now = drawings[number];
    drawings.forEach((drawing) => drawing.world.classList.toggle("off", drawing !== now));
    if (fold) fold.textContent = number ? "all layers" : "overview";
    fit(whole ?? now.height < 2 * view.clientHeight);
    search();
  };
  const toggle = () => { if (fold) open(now === drawings[0] ? 1 : 0); };
  const unfold = (layer) => {
    open(0, false);
    choose(layer.boxes[0]);
    centre(layer.boxes[0]);
    for (const number of layer.boxes) now.nodes[number].classList.add("hit");
  };
  const theme = (name) => { root.dataset.theme = name; };

  const fingers = new Map();
  let moved = 0;
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey || event.altKey || !event.shiftKey && !event.deltaX) {
      const spot = view.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), event.clientX - spot.left, event.clientY - spot.top);
    } else { at.x -= event.deltaX; at.y -= event.deltaY; show(); }
  }, { passive: false });
  view.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    moved = 0;
  });
  view.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last) return;
    const to = [event.clientX, event.clientY], spread = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    const before = fingers.size === 2 ? spread() : 0;
    fingers.set(event.pointerId, to);
    moved += Math.abs(to[0] - last[0]) + Math.abs(to[1] - last[1]);
    if (moved > 4 && !view.classList.contains("drags")) {
      view.classList.add("drags");
      view.setPointerCapture(event.pointerId);
    }
    if (fingers.size === 2 && before) {
      const spot = view.getBoundingClientRect(), [a, b] = [...fingers.values()];
      zoom(spread() / before, (a[0] + b[0]) / 2 - spot.left, (a[1] + b[1]) / 2 - spot.top);
    } else { at.x += to[0] - last[0]; at.y += to[1] - last[1]; show(); }
  });
  for (const name of ["pointerup", "pointercancel", "pointerleave"])
    view.addEventListener(name, (event) => { fingers.delete(event.pointerId); view.classList.remove("drags"); });
  view.addEventListener("click", (event) => {
    if (moved > 4) return;
    const node = event.target.closest(".node[data-n]");
    choose(node ? +node.dataset.n : -1);
  });
  view.addEventListener("dblclick", () => { if (chosen >= 0 && now.layers[chosen].boxes) unfold(now.layers[chosen]); });

  field.addEventListener("input", search);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); step(event.shiftKey ? -1 : 1); }
    if (event.key === "Escape") { field.value = ""; search(); view.focus(); }
    event.stopPropagation();
  });
  const keys = {
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": () => fit(true), "1": () => fit(false),
    "/": () => field.focus(), n: () => step(1), N: () => step(-1), d: () => theme(root.dataset.theme === "dark" ? "light" : "dark"),
    o: toggle, j: () => follow(true), k: () => follow(false), Escape: () => choose(-1),
    ArrowLeft: () => { at.x += 60; show(); }, ArrowRight: () => { at.x -= 60; show(); },
    ArrowUp: () => { at.y += 60; show(); }, ArrowDown: () => { at.y -= 60; show(); },
    PageUp: () => { at.y += view.clientHeight * 0.8; show(); }, PageDown: () => { at.y -= view.clientHeight * 0.8; show(); },
    Home: () => fit(false), End: () => { at.y = view.clientHeight - (now.height + 20) * at.scale; show(); },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  const does = { whole: keys["0"], width: keys["1"], larger: keys["+"], smaller: keys["-"], theme: keys.d, fold: toggle };
  for (const button of document.querySelectorAll("button[data-do]")) button.addEventListener("click", () => does[button.dataset.do]());

  const dark = matchMedia("(prefers-color-scheme: dark)");
  theme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
  const wanted = decodeURIComponent(location.hash.slice(1));
  open(wanted ? 0 : drawings.length - 1);
  if (wanted) { field.value = wanted; search(); step(1); }
})();

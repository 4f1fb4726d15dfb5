"use strict";
// Without this script a page is complete: it puts interactive pictures in the place of those that are there.
(() => {
  const { config, series } = JSON.parse(document.getElementById("settings").textContent);
  const views = [];
  const hidden = new Set();
  let focus = "";

  const escaped = (text) => String(text).replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`);

  function tooltip(datum) {
    const { heading, rows } = datum.tip ?? { heading: "", rows: fallback(datum) };
    const lines = rows.filter((row) => !hidden.has(row.series)).map(({ series: name, text }) => {
      const swatch = name in series ? `<i style="background:var(--series-${series[name]})"></i>` : "";
      return `<span>${swatch}${name ? `<em>${escaped(name)}</em>` : ""}${escaped(text)}</span>`;
    });
    return (heading ? `<b>${escaped(heading)}</b>` : "") + lines.join("");
  }

  // A chart that somebody brought along shows what it has, as Vega does.
  function fallback(datum) {
    if (typeof datum !== "object") return [{ series: "", text: datum }];
    return Object.entries(datum).map(([name, text]) => ({ series: name, text }));
  }

  function tell(view) {
    return view.signal("hidden", [...hidden]).signal("focus", focus).runAsync();
  }

  async function embed(picture, panel) {
    const spec = JSON.parse(panel.querySelector("script").textContent);
    const isFluid = panel.classList.contains("fluid");
    if (isFluid) Object.assign(spec, { width: picture.clientWidth, autosize: { type: "fit-x", contains: "padding" } });
    const place = document.createElement("div"); // elsewhere, so that the page doesn't jump
    const { view } = await vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "svg", actions: false, config, defaultStyle: false,
      tooltip: { disableDefaultStyle: true, formatTooltip: tooltip },
    });
    picture.replaceChildren(place);
    if (spec.params?.some((param) => param.name === "hidden")) {
      views.push(view);
      await tell(view);
    }
    return isFluid ? view : null;
  }

  // Dozens of pictures at once would hold up the page for seconds: those in sight come first, the others one by one
  // while nothing else is to be done, and what is folded away once it is opened. Until then a panel shows the picture of
  // the file.
  const panels = [...document.querySelectorAll(".panel")];
  const drawn = new Map();
  const isWaiting = (panel) => !drawn.has(panel) && !panel.closest("details:not([open])");
  const draw = (panel) => drawn.set(panel, embed(panel.querySelector(".picture"), panel)).get(panel);
  const idle = window.requestIdleCallback ?? ((then) => setTimeout(then, 50));
  async function drawRest() {
    const next = panels.find(isWaiting);
    if (!next) return;
    await draw(next);
    idle(drawRest);
  }
  const inSight = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting && isWaiting(entry.target)).forEach((entry) => draw(entry.target));
  }, { rootMargin: "50% 0px" });
  const resized = new ResizeObserver((entries) => {
    for (const { target: panel } of entries) {
      const picture = panel.querySelector(".picture");
      drawn.get(panel)?.then((view) => {
        const width = picture.clientWidth;
        if (view && width && view.width() !== width) view.width(width).runAsync();
      });
    }
  });
  panels.forEach((panel) => { inSight.observe(panel); resized.observe(panel); });
  idle(drawRest);

  const buttons = document.querySelectorAll(".legend button");
  function point(name) {
    focus = hidden.has(name) ? "" : name;
    views.forEach(tell);
  }
  buttons.forEach((button) => {
    const name = button.dataset.series;
    button.disabled = false;
    button.title = "Show or hide in all figures";
    button.addEventListener("click", () => {
      if (!hidden.delete(name)) hidden.add(name);
      buttons.forEach((other) => {
        if (other.dataset.series === name) other.setAttribute("aria-pressed", String(!hidden.has(name)));
      });
      point(button.matches(":hover") && matchMedia("(hover: hover)").matches ? name : "");
    });
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && point(name));
    button.addEventListener("pointerleave", () => point(""));
    button.addEventListener("focus", () => button.matches(":focus-visible") && point(name));
    button.addEventListener("blur", () => point(""));
  });

  const folded = () => document.querySelectorAll("details:not([open])");
  addEventListener("beforeprint", () => {
    folded().forEach((details) => { details.open = details.dataset.unfolded = true; });
    panels.filter(isWaiting).forEach(draw);
  });
  addEventListener("afterprint", () => document.querySelectorAll("[data-unfolded]").forEach((details) => {
    details.open = false;
    delete details.dataset.unfolded;
  }));
})();

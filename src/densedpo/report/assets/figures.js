"use strict";
// Draws the figures that index.html carries as JSON when they come near, in the colours of the style sheet, and again when
// the theme changes.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const config = { displayModeBar: false, responsive: true, doubleClick: false, showTips: false };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // "var(--name)" becomes the theme's colour, everywhere in the tree
  function coloured(value, style) {
    if (typeof value === "string" && value.startsWith("var(--")) return style.getPropertyValue(value.slice(4, -1)).trim();
    if (Array.isArray(value)) return value.map((item) => coloured(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
    }
    return value;
  }

  function axis(given) {
    const base = { gridcolor: "var(--line)", linecolor: "var(--line)", tickcolor: "var(--line)", fixedrange: true, exponentformat: "none" };
    const title = given.title && { ...given.title, font: { size: 12, color: "var(--soft)" }, standoff: 8 };
    return { ...base, ...given, ...(title ? { title } : {}) };
  }

  function themed(figure) {
    const layout = {
      ...figure.layout,
      height: figure.height,
      autosize: true,
      dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "var(--ink)" },
      hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--soft)", font: { color: "var(--ink)", size: 12.5 } },
    };
    for (const key of Object.keys(layout)) if (/^[xy]axis\d*$/.test(key)) layout[key] = axis(layout[key]);
    return layout;
  }

  const places = new Map(figures.map((figure) => [document.getElementById(figure.id), figure]).filter(([place]) => place));
  const drawn = new Set();

  function draw(place) {
    const style = getComputedStyle(document.documentElement);
    const figure = places.get(place);
    Plotly.react(place, coloured(figure.data, style), coloured(themed(figure), style), config);
    drawn.add(place);
  }

  // only what is looked at: dozens of figures take seconds
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      if (!drawn.has(target)) draw(target);
    }
  }, { rootMargin: "800px" });
  for (const [place, figure] of places) {
    place.style.height = `${figure.height}px`; // so that nothing moves when it is drawn
    near.observe(place);
  }

  dark.addEventListener("change", () => { for (const place of drawn) draw(place); });
  window.matchMedia("print").addEventListener("change", () => {
    for (const place of places.keys()) { draw(place); Plotly.Plots.resize(place); }
  });
})();

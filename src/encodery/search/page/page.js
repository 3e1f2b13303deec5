// Keys and comfort; the page is whole without it.
"use strict";
(() => {
  const query = document.getElementById("q");
  const form = document.getElementById("form");
  const links = [...document.querySelectorAll(".hit .open")];

  function move(step) {
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    const to = at < 0 ? (step > 0 ? 0 : links.length - 1) : at + step;
    if (to < 0) { query.focus(); return; }
    const link = links[Math.min(to, links.length - 1)];
    link.focus({ preventScroll: true });
    link.closest(".hit").scrollIntoView({ block: "nearest" });
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest("input, select, textarea");
    if (event.key === "Escape" && field) { field.blur(); return; }
    if (event.key === "ArrowDown" && (!field || field === query)) { event.preventDefault(); move(1); return; }
    if (event.key === "ArrowUp" && !field) { event.preventDefault(); move(-1); return; }
    if (field) return;
    if (event.key === "/" && query) { event.preventDefault(); query.focus(); query.select(); }
    if (event.key === "j") move(1);
    if (event.key === "k") move(-1);
  });

  if (form) {
    // An address says only what was filled in.
    form.addEventListener("formdata", (event) => {
      for (const [name, value] of [...event.formData]) {
        if (value.trim()) continue;
        const kept = event.formData.getAll(name).filter((text) => text.trim());
        event.formData.delete(name);
        for (const text of kept) event.formData.append(name, text);
      }
    });
    for (const choice of form.querySelectorAll("select")) {
      choice.addEventListener("change", () => { if (query.value.trim()) form.requestSubmit(); });
    }
  }
})();

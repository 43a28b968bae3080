// Times in the reader's own zone, pages that keep themselves up to date while nobody types in them, and texts that are checked as one
// types.
const told = new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "auto" });
const steps = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
function times(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime), seconds = (moment - Date.now()) / 1000;
    const [unit, size] = steps.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
    time.textContent = told.format(Math.round(seconds / size), unit);
    time.title = moment.toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" });
  }
}
// What is a row where there is room becomes a card where there is not: each value knows its column, and stays one for who can't see it.
function stack(root) {
  for (const table of root.querySelectorAll(".wide > table")) {
    const heads = [...table.querySelectorAll("thead tr")];
    if (heads.length !== 1 || table.querySelector("[colspan]")) continue;
    const names = [...heads[0].cells].map((cell) => cell.textContent.trim());
    table.classList.add("stacks");
    table.setAttribute("role", "table");
    for (const part of table.querySelectorAll("thead, tbody")) part.setAttribute("role", "rowgroup");
    for (const row of table.rows) {
      row.setAttribute("role", "row");
      [...row.cells].forEach((cell, at) => {
        const isHead = cell.parentElement.parentElement.tagName === "THEAD";
        cell.setAttribute("role", isHead ? "columnheader" : cell.tagName === "TH" ? "rowheader" : "cell");
        if (!isHead) cell.dataset.label = names[at] ?? "";
      });
    }
  }
}
async function renew() {
  const main = document.querySelector("main");
  const busy = main.contains(document.activeElement) && document.activeElement.matches("input, button, select, textarea");
  if (!document.hidden && !busy) {
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
      if (answer.ok && page && page.innerHTML !== main.dataset.known) {
        const link = document.activeElement?.closest("main a")?.getAttribute("href");
        main.dataset.known = page.innerHTML;
        main.innerHTML = page.innerHTML;
        stack(main);
        if (link) main.querySelector(`a[href="${CSS.escape(link)}"]`)?.focus();
      }
    } catch { /* The server is away; the next time tells. */ }
    times(document);
  }
  setTimeout(renew, 2000);
}
times(document);
stack(document);
if (document.querySelector("main[data-live]")) setTimeout(renew, 2000);
const editor = document.querySelector("form[data-try]");
if (editor) {
  const text = editor.elements.text, tried = document.getElementById("tried");
  let wait, asked = 0;
  const check = async () => {
    const mine = ++asked, form = new URLSearchParams(new FormData(editor));
    form.set("part", "true");
    try {
      const answer = await fetch(editor.dataset.try, { method: "POST", body: form });
      const part = await answer.text();
      // What was typed since is asked for by itself.
      if (mine === asked && answer.ok) tried.innerHTML = part;
      stack(tried);
    } catch { /* The server is away; the next letter asks again. */ }
  };
  if (!text.readOnly) {
    text.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(check, 600); });
    check();
  }
  tried.addEventListener("click", (event) => {
    const line = event.target.dataset.line;
    if (!line) return;
    const lines = text.value.split("\n"), from = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    text.focus();
    text.setSelectionRange(from, from + (lines[line - 1] ?? "").length);
    text.scrollTop = (line - 4) * parseFloat(getComputedStyle(text).lineHeight);
  });
}

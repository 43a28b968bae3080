// The switches of the page. Without it the page still shows everything.
"use strict";

const extras = {
  status: { status: 503, retry_after: 2 },
  latency: { milliseconds: 2000 },
};

async function send(method, url, body) {
  const answer = await fetch(url, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body ?? {}) });
  if (!answer.ok) {
    const [error] = await answer.json();
    document.getElementById("said").textContent = error.message;
    return;
  }
  location.reload();
}

document.getElementById("chaos")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const kind = form.get("kind");
  const rule = { fault: { kind, ...extras[kind] }, probability: Number(form.get("probability")) };
  if (form.get("count")) rule.count = Number(form.get("count"));
  if (form.get("path")) rule.path = form.get("path");
  send("POST", "/sandbox/api/chaos", rule);
});

for (const button of document.querySelectorAll("[data-delete]")) {
  button.addEventListener("click", () => send("DELETE", button.dataset.delete));
}

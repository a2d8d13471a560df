// Refreshes what is inside #live, and keeps focus, scroll position, open details and a selection. j and k move between articles.
// Without this script, reload the page.
const FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]";

function place(element) { // where an element is: its id, or the nearest id around it and a number
  const around = element?.closest("#live [id]");
  return around && { id: around.id, at: around === element ? -1 : [...around.querySelectorAll(FOCUSABLE)].indexOf(element) };
}

function find({ id, at }) {
  const around = document.getElementById(id);
  return at < 0 ? around : (around?.querySelectorAll(FOCUSABLE)[at] ?? around);
}

async function refresh() {
  const response = await fetch(location.href, { cache: "no-store" });
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  document.getElementById("offline")?.remove();
  document.title = page.title;
  if (String(getSelection()) || document.activeElement?.closest("#live form")) return; // someone reads or writes
  const focused = place(document.activeElement);
  const open = [...document.querySelectorAll("#live details[open]")].map((details) => place(details.querySelector("summary")));
  document.getElementById("live").replaceWith(page.getElementById("live"));
  for (const summary of open.filter(Boolean)) find(summary)?.parentElement?.setAttribute("open", "");
  if (focused) find(focused)?.focus({ preventScroll: true });
}

function showOffline() {
  document.title = "Offline";
  let notice = document.getElementById("offline");
  if (!notice) {
    notice = Object.assign(document.createElement("p"), { id: "offline", className: "doubt" });
    notice.setAttribute("role", "alert");
    document.getElementById("live").prepend(notice);
  }
  notice.textContent = "The server of this page does not answer. What you see is out of date.";
}

const everyMs = Number(document.body.dataset.refreshMs);
if (everyMs) setInterval(() => { if (!document.hidden) refresh().catch(showOffline); }, everyMs);

document.addEventListener("keydown", (event) => {
  const step = { j: 1, k: -1 }[event.key];
  if (!step || localStorage.getItem("evergreen-keys-off") || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  const all = [...document.querySelectorAll("article")];
  const at = all.indexOf(document.activeElement?.closest("article"));
  all[Math.min(all.length - 1, Math.max(0, at + step))]?.focus();
});

// Refreshes the page without moving the focus; j and k move between messages. Without this script, reload the page.
const FOCUSABLE = "a[href], summary, [tabindex]";

async function refresh() {
  const response = await fetch("/", { cache: "no-store" });
  if (!response.ok) throw new Error(`the inbox answered ${response.status}`);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  document.getElementById("offline")?.remove();
  document.title = page.title;
  if (document.querySelector("details[open]") || String(getSelection())) return; // someone is reading
  const live = document.getElementById("live"), fresh = page.getElementById("live");
  const focus = findFocused(live, fresh);
  live.replaceWith(fresh);
  focus?.focus({ preventScroll: true });
}

// Returns the element of the fresh page in the place of the one with the focus: in the same card, else its card.
function findFocused(live, fresh) {
  const focused = document.activeElement;
  if (!live.contains(focused)) return null;
  const card = focused.closest("article");
  const freshCard = card && [...fresh.querySelectorAll("article")].find((other) => other.dataset.key === card.dataset.key);
  if (card && (!freshCard || focused === card)) return freshCard;
  const at = [...(card ?? live).querySelectorAll(FOCUSABLE)].indexOf(focused);
  return (freshCard ?? fresh).querySelectorAll(FOCUSABLE)[at] ?? freshCard;
}

function showOffline() {
  document.title = "Inbox is offline";
  let notice = document.getElementById("offline");
  if (!notice) {
    notice = Object.assign(document.createElement("p"), { id: "offline", className: "doubt", role: "alert" });
    document.querySelector("header").append(notice);
  }
  notice.textContent = "The inbox does not answer. This page is out of date.";
}

setInterval(() => refresh().catch(showOffline), Number(document.body.dataset.refreshMs));

document.addEventListener("keydown", (event) => {
  const step = { j: 1, k: -1 }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = [...document.querySelectorAll("article")];
  const at = all.indexOf(document.activeElement?.closest("article"));
  all[Math.min(all.length - 1, Math.max(0, at + step))]?.focus();
});

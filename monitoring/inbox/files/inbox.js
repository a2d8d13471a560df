// Refreshes the page without moving the focus; j and k move between messages. Without this script, reload the page.
async function refresh() {
  if (document.querySelector("details[open]") || String(getSelection())) return; // someone is reading
  const response = await fetch("/", { cache: "no-store" });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const at = [...document.querySelectorAll("article")].indexOf(document.activeElement);
  document.title = page.title;
  document.getElementById("live").replaceWith(page.getElementById("live"));
  if (at >= 0) document.querySelectorAll("article")[at]?.focus({ preventScroll: true });
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

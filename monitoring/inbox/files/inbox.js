// Keeps the page new without taking the focus away, and lets j and k go from message to message. Without it, reload.
async function renew() {
  if (document.querySelector("details[open]") || String(getSelection())) return; // somebody reads
  const answer = await fetch("/", { cache: "no-store" });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const at = [...document.querySelectorAll("article")].indexOf(document.activeElement);
  document.title = page.title;
  document.getElementById("live").replaceWith(page.getElementById("live"));
  if (at >= 0) document.querySelectorAll("article")[at]?.focus({ preventScroll: true });
}

function lost() {
  document.title = "Inbox is gone";
  let said = document.getElementById("lost");
  if (!said) {
    said = Object.assign(document.createElement("p"), { id: "lost", className: "doubt", role: "alert" });
    document.querySelector("header").append(said);
  }
  said.textContent = "The inbox itself does not answer; what stands here is old.";
}

setInterval(() => renew().catch(lost), Number(document.body.dataset.renewMs));

document.addEventListener("keydown", (event) => {
  const step = { j: 1, k: -1 }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = [...document.querySelectorAll("article")];
  const at = all.indexOf(document.activeElement?.closest("article"));
  all[Math.min(all.length - 1, Math.max(0, at + step))]?.focus();
});

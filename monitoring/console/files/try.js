// Sends a text and shows the answer that the server has rendered; Ctrl+Enter sends, an example is sent by a click.
// What is shown has escapes for invisible characters; what is sent has not: `data-text` and `data-label` hold it as JSON.
const text = document.getElementById("text");
const token = document.getElementById("token");
const TOKEN = "evergreen-token"; // in this tab's session storage, and nowhere else
const asked = new WeakMap(); // requests by the element that shows their answer: only the newest is shown

token.value = sessionStorage.getItem(TOKEN) ?? "";
token.addEventListener("input", () => sessionStorage.setItem(TOKEN, token.value.trim()));

async function send(path, content) { // returns the nodes that the server has rendered
  const headers = { "content-type": "application/json" };
  if (token.value.trim()) headers.authorization = `Bearer ${token.value.trim()}`;
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(content), cache: "no-store" });
  if (!response.headers.get("content-type")?.startsWith("text/html")) throw new Error(response.status);
  return [...new DOMParser().parseFromString(await response.text(), "text/html").body.childNodes];
}

function notice(words) {
  const paragraph = Object.assign(document.createElement("p"), { className: "doubt", textContent: words });
  paragraph.setAttribute("role", "alert");
  return [paragraph];
}

async function show(target, path, content) {
  let nodes;
  const number = (asked.get(target) ?? 0) + 1;
  asked.set(target, number);
  target.setAttribute("aria-busy", "true");
  try {
    nodes = await send(path, content);
  } catch {
    nodes = notice("The console does not answer, or cannot send this. It starts with: make serve");
  }
  if (number !== asked.get(target)) return;
  target.replaceChildren(...nodes);
  target.removeAttribute("aria-busy");
  if (target.querySelector("[data-needs-token]")) {
    document.getElementById("token-box").open = true;
    token.focus();
  }
}

async function ask() {
  if (!text.reportValidity()) return;
  await show(document.getElementById("answer"), "/try/answer", { text: text.value });
}

function correct(label) {
  const form = document.getElementById("correction");
  show(document.getElementById("thanks"), "/try/correction", { id: form.dataset.id, label });
}

document.getElementById("question").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  ask();
});
document.addEventListener("click", (event) => {
  const example = event.target.closest(".example");
  if (example) {
    text.value = JSON.parse(example.dataset.text);
    ask();
  } else if (event.target.id === "confirm") {
    correct(JSON.parse(event.target.dataset.label));
  }
});
document.addEventListener("submit", (event) => {
  if (event.target.id !== "correction") return;
  event.preventDefault();
  const label = document.getElementById("right-label").value.trim();
  const known = [...document.querySelectorAll("#known-labels option")].find((option) => option.value === label);
  if (label) correct(known ? JSON.parse(known.dataset.label) : label);
});

// Keys of the label queue, and answers that replace the page's content in place. Without this script the same forms load pages.
const KEYS_OFF = "evergreen-keys-off"; // in this browser's storage; page.js reads it too
let busy = false; // one answer at a time: a second key must not label a text that nobody has seen

function announce(words) {
  const notice = Object.assign(document.createElement("p"), { id: "refusal", className: "doubt", textContent: words });
  notice.setAttribute("role", "alert");
  document.getElementById("refusal")?.remove();
  document.getElementById("main").prepend(notice);
}

async function refusalOf(response) {
  const error = await response.json().then((body) => body.error, () => undefined);
  return `The console refuses this with status ${response.status}${error?.message ? `: ${error.message}` : ""}. Load the page again.`;
}

function showSwitch() {
  const box = document.getElementById("use-keys");
  if (!box) return;
  box.checked = !localStorage.getItem(KEYS_OFF);
  box.closest("[hidden]")?.removeAttribute("hidden");
}

async function replacePage(address, options) {
  const response = await fetch(address, { cache: "no-store", ...options });
  if (!response.headers.get("content-type")?.startsWith("text/html")) return announce(await refusalOf(response));
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (!page.body.classList.contains("labelling")) { // a login, a refusal: pages with another style
    if (response.redirected) location.assign(response.url);
    else document.getElementById("main").replaceChildren(...page.getElementById("main").childNodes);
    return;
  }
  document.title = page.title;
  document.getElementById("live").replaceWith(page.getElementById("live"));
  showSwitch();
  if (response.redirected) history.pushState(null, "", response.url);
  document.getElementById("main").focus({ preventScroll: true });
  scrollTo(0, 0);
}

async function send(form, submitter) {
  if (busy) return;
  busy = true;
  const main = document.getElementById("main");
  main.setAttribute("aria-busy", "true");
  try {
    const fields = new URLSearchParams(new FormData(form, submitter));
    await replacePage(form.action, { method: "POST", body: fields });
  } catch {
    announce("The console does not answer. Nothing is lost: send it again when it runs (make console).");
  } finally {
    busy = false;
    main.removeAttribute("aria-busy");
  }
}

document.addEventListener("submit", (event) => {
  if (!event.target.closest("body.labelling") || event.target.classList.contains("account")) return;
  event.preventDefault();
  send(event.target, event.submitter);
});

addEventListener("popstate", () => location.reload());

document.addEventListener("change", (event) => {
  if (event.target.id !== "use-keys") return;
  if (event.target.checked) localStorage.removeItem(KEYS_OFF);
  else localStorage.setItem(KEYS_OFF, "yes");
});
showSwitch();

function tickAll() {
  const boxes = [...document.querySelectorAll(".tick input")];
  const isTicked = boxes.some((box) => !box.checked);
  for (const box of boxes) box.checked = isTicked;
}

document.addEventListener("click", (event) => {
  if (event.target.id !== "tick-all") return;
  event.preventDefault();
  tickAll();
});

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input:not([type=checkbox]), textarea, select");
  if (event.key === "Escape" && isTyping) event.target.blur();
  if (localStorage.getItem(KEYS_OFF) || isTyping || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = CSS.escape(event.key);
  const field = document.querySelector(`[data-focus-key="${key}"]`);
  const inArticle = document.activeElement?.closest("article")?.querySelector(`[data-article-key="${key}"]`);
  const target = field ?? inArticle ?? document.querySelector(`[data-key="${key}"]`);
  if (!target) return;
  event.preventDefault();
  if (field) {
    field.focus();
    field.select();
  } else if (target.matches("details")) {
    target.open = !target.open;
    target.querySelector("summary").focus();
  } else {
    target.click();
  }
});

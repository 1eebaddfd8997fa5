// The last request as a command or as code, to copy.

import { hasKey } from "./api.js";
import { by } from "./dom.js";
import { isFirst } from "./form.js";
import { cli, curl, python } from "./snippets.js";

const base = new URL(".", location.href).href.replace(/\/$/, "");
const writers = { "tab-curl": curl, "tab-python": python, "tab-cli": cli };
const tabs = Object.keys(writers);
let request = null;
let chosen = tabs[0];

export function showCode(shown, about) {
  request = { ...shown, isOfFirst: isFirst() };
  by("code-about").textContent = about;
  by("code-section").hidden = false;
  write();
}

function write() {
  const text = writers[chosen](base, request, hasKey());
  by("code").textContent = text ?? "distgen query has no words for this one; curl and Python do.";
  by("copy").disabled = text === null;
}

function choose(id, focus) {
  chosen = id;
  for (const tab of tabs) {
    by(tab).setAttribute("aria-selected", String(tab === id));
    by(tab).tabIndex = tab === id ? 0 : -1;
  }
  by("code-panel").setAttribute("aria-labelledby", id);
  if (focus) by(id).focus();
  write();
}

export function listenToCode() {
  for (const tab of tabs) by(tab).addEventListener("click", () => choose(tab));
  by("languages").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(tabs[(tabs.indexOf(chosen) + step + tabs.length) % tabs.length], true);
  });
  by("copy").addEventListener("click", async () => {
    const done = await copied(by("code").textContent);
    by("copy-said").textContent = done ? "Copied." : "Select the text and copy it by hand.";
    setTimeout(() => (by("copy-said").textContent = ""), 2500);
  });
}

// Browsers keep their clipboard from pages that came over plain HTTP from another machine.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(by("code"));
    const done = document.execCommand?.("copy") ?? false;
    if (done) getSelection().removeAllRanges();
    return done;
  }
}

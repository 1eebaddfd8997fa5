// Small words for the page. Text only ever enters it as text, never as HTML.

export const by = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function fill(select, choices, chosen) {
  select.replaceChildren(
    ...choices.map(([value, text]) => {
      const option = make("option", { value }, text);
      option.selected = value === chosen;
      return option;
    }),
  );
}

// A screen reader reads the status when it settles, not while a slider moves.
let settled = 0;
export function say(text, pauseMs = 0) {
  clearTimeout(settled);
  settled = setTimeout(() => (by("status").textContent = text), pauseMs);
}

export function complain(error) {
  const text = error instanceof Error ? error.message : String(error);
  by("error").textContent = text;
  by("error").hidden = !text;
  if (text) say("");
}

export const calm = () => complain("");

// On every page: theme, copy buttons, tabs, dialogs, toasts. Everything else works without it.

import { copyText } from "./ui.js";

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  // A cookie, so that the next page is rendered in the right theme at once.
  document.cookie = `theme=${root.dataset.theme}; path=/; max-age=31536000; SameSite=Lax`;
  dispatchEvent(new Event("themechange"));
}

function selectTab(tab) {
  const scope = tab.closest("[data-tabs]");
  for (const other of scope.querySelectorAll('[role="tab"]')) {
    const selected = other === tab;
    other.setAttribute("aria-selected", String(selected));
    other.tabIndex = selected ? 0 : -1;
    scope.querySelector(`#${other.getAttribute("aria-controls")}`).hidden = !selected;
  }
  tab.focus();
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-theme-toggle],[data-copy],[data-copy-panel],[data-open],[data-close],[data-tabs] [role=tab]");
  if (!target) {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
    return;
  }
  if ("themeToggle" in target.dataset) toggleTheme();
  if ("copy" in target.dataset) copyText(target.dataset.copy);
  if ("copyPanel" in target.dataset) copyText(target.closest("[data-tabs]").querySelector('[role="tabpanel"]:not([hidden])').textContent);
  if ("open" in target.dataset && target.tagName === "BUTTON") document.getElementById(target.dataset.open)?.showModal();
  if ("close" in target.dataset) target.closest("dialog").close();
  if (target.matches("[data-tabs] [role=tab]")) selectTab(target);
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") for (const menu of document.querySelectorAll("details.menu[open]")) menu.open = false;
  const tab = event.target.closest?.('[role="tab"]');
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!tab || !step) return;
  const tabs = [...tab.closest('[role="tablist"]').querySelectorAll('[role="tab"]')];
  const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
  next.focus();
  next.click();
});

for (const shown of document.querySelectorAll(".toasts .toast")) setTimeout(() => shown.remove(), 6000);
if (new URL(location).searchParams.has("done")) {
  const url = new URL(location);
  url.searchParams.delete("done");
  history.replaceState(null, "", url);
}

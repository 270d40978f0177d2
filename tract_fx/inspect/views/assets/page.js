"use strict";
{
  // The theme: what the system says, until the button is used.
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Use the ${isDark() ? "light" : "dark"} theme`); };
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  system.addEventListener("change", name);
  theme.hidden = false;
  name();

  // Code: everything at once.
  for (const button of document.querySelectorAll(".unfold")) {
    const code = button.parentElement.nextElementSibling;
    button.hidden = !code.querySelector("details");
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") !== "true";
      for (const part of code.querySelectorAll("details")) part.open = open;
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "Fold unchanged lines" : "Show all lines";
    });
  }

  // The listing opens at the first line that changed, with what is before it one scroll away.
  for (const code of document.querySelectorAll(".code")) {
    const change = code.querySelector(".ln.backward:is(.added, .removed)") ?? code.querySelector(".ln:is(.added, .removed)");
    if (!change) continue;
    const lines = 4 * change.offsetHeight;
    code.scrollTop = change.getBoundingClientRect().top - code.getBoundingClientRect().top + code.scrollTop - lines;
  }

  // Several layers in one graph: tabs, which arrow keys move between.
  for (const group of document.querySelectorAll(".tabs")) {
    const panels = [...group.querySelectorAll(":scope > article")];
    const list = document.createElement("div");
    list.className = "tablist";
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", "Layers");
    const tabs = panels.map((panel, index) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.id = `tab-${panel.id}`;
      tab.textContent = panel.dataset.tab;
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", panel.id);
      tab.addEventListener("click", () => select(index));
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      list.append(tab);
      return tab;
    });
    const select = (chosen) => tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", String(index === chosen));
      tab.tabIndex = index === chosen ? 0 : -1;
      panels[index].hidden = index !== chosen;
    });
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length;
      select(next);
      tabs[next].focus();
      event.preventDefault();
    });
    group.prepend(list);
    select(0);
  }
}

() => {
  // Keys act on the page's own buttons, so that a key and a click can never differ.
  const click = (id) => {
    const button = document.getElementById(id);
    if (!button || button.disabled || button.offsetParent === null) return false;
    button.click();
    return true;
  };
  const panes = () => document.getElementById("panes");
  const shown = () => [...document.querySelectorAll(".wb-pane")];
  // In a narrow window one pane is seen at a time, with the tabs to choose it.
  const activate = (id) => {
    const all = shown().map((pane) => pane.id);
    if (!all.length) return;
    const active = all.includes(id) ? id : all[0];
    if (panes().dataset.active !== active) panes().dataset.active = active;
    if (!all.includes(panes().dataset.expanded)) delete panes().dataset.expanded;
    for (const tab of document.querySelectorAll("[data-tab]")) {
      const selected = String(`pane-${tab.dataset.tab}` === active);
      if (tab.getAttribute("aria-selected") !== selected) tab.setAttribute("aria-selected", selected);
      tab.tabIndex = selected === "true" ? 0 : -1;
    }
  };
  const focusPane = (place) => {
    const pane = shown()[place - 1];
    if (!pane) return false;
    activate(pane.id);
    if (panes().dataset.expanded) panes().dataset.expanded = pane.id;
    pane.tabIndex = -1;
    pane.scrollIntoView({ block: "nearest", inline: "nearest" });
    pane.focus({ preventScroll: true });
    return true;
  };
  document.addEventListener("click", (event) => {
    const tab = event.target.closest?.("[data-tab]");
    const expand = event.target.closest?.('[id^="pane-"][id$="-expand"]');
    if (event.target.closest?.("#run")) sessionStorage.removeItem("workbench-draft");
    if (event.target.closest?.("#run, #arena-ask, [id^='pane-'][id$='-again']")) {
      for (const close of document.querySelectorAll(".toast-close")) close.click();
    }
    if (event.target.closest?.("#new-conversation")) {
      // Its answers are not to come back: models and options are.
      const left = JSON.parse(sessionStorage.getItem("workbench-kept") || "null");
      if (left) sessionStorage.setItem("workbench-kept", JSON.stringify({ ...left, asked: null }));
    }
    if (tab) activate(`pane-${tab.dataset.tab}`);
    if (expand) {
      const pane = expand.closest(".wb-pane").id;
      if (panes().dataset.expanded === pane) delete panes().dataset.expanded;
      else panes().dataset.expanded = pane;
    }
  });
  // One pane's scrolling moves the others to the same share of their own length.
  let leading;
  const lead = (event) => (leading = event.target.closest?.(".wb-chat"));
  for (const kind of ["pointerdown", "wheel", "keydown", "touchstart"]) document.addEventListener(kind, lead, { capture: true, passive: true });
  document.addEventListener(
    "scroll",
    ({ target }) => {
      if (!leading || !leading.contains(target) || !document.querySelector("#sync-scroll input")?.checked) return;
      const share = target.scrollTop / Math.max(target.scrollHeight - target.clientHeight, 1);
      for (const other of document.querySelectorAll(".wb-chat .panel-wrap")) {
        if (!leading.contains(other)) other.scrollTop = share * (other.scrollHeight - other.clientHeight);
      }
    },
    { capture: true, passive: true },
  );
  // What gradio's own markup lacks: the arrow of a folded thought is a button without a name within
  // another one, and the name of an empty plot belongs to nothing.
  const unnest = () => {
    for (const empty of document.querySelectorAll(".empty[aria-label]:not([role])")) empty.setAttribute("role", "img");
    for (const arrow of document.querySelectorAll(".wb-chat .title button:enabled")) {
      arrow.disabled = true;
      arrow.setAttribute("aria-hidden", "true");
    }
  };
  // What the tab compares is kept here too: a server that was started anew does not know it.
  let kept = "";
  const keep = () => {
    const text = document.getElementById("kept")?.textContent.trim() ?? "";
    if (!text || text === kept) return;
    sessionStorage.setItem("workbench-kept", (kept = text));
  };
  new MutationObserver(() => panes() && (activate(panes().dataset.active), unnest(), keep())).observe(document.body, {
    childList: true,
    subtree: true,
  });
  // The tab's secret, by which it finds its answers again after it was loaded anew, and what was
  // being typed. An address with a comparison in it begins afresh.
  const arrived = performance.getEntriesByType("navigation")[0]?.type;
  if (!sessionStorage.getItem("workbench-tab") || (arrived === "navigate" && location.search.length > 1)) {
    const secret = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0"));
    sessionStorage.setItem("workbench-tab", secret.join(""));
    sessionStorage.removeItem("workbench-draft");
    sessionStorage.removeItem("workbench-kept");
  }
  window.workbenchTab = () => ["tab", "draft"].map((name) => sessionStorage.getItem(`workbench-${name}`) ?? "");
  document.addEventListener("input", (event) => {
    if (event.target.closest?.("#prompt")) sessionStorage.setItem("workbench-draft", event.target.value);
  });
  // Files that somebody chooses go to the server as text.
  document.addEventListener("change", async ({ target }) => {
    if (!target.matches?.("input[type=file][data-into]")) return;
    const files = [...target.files];
    const fit = files.reduce((sum, file) => sum + file.size, 0) <= Number(target.dataset.most);
    const read = (file) =>
      new Promise((done) => {
        const reader = new FileReader();
        reader.onload = () => done({ name: file.name, data: reader.result.split(",")[1] ?? "" });
        reader.onerror = () => done({});
        reader.readAsDataURL(file);
      });
    const field = document.querySelector(`#${target.dataset.into} :is(textarea, input)`);
    const handed = fit ? JSON.stringify(await Promise.all(files.map(read))) : "too large";
    // What was refused stays there; the same again would be no change.
    field.value = handed === field.value ? `${handed} ` : handed;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    target.value = "";
  });
  // A picker of gradio opens its list at any key, also at the Tab that leaves it, and then for good.
  document.addEventListener(
    "keydown",
    (event) => event.key === "Tab" && event.target.matches?.('[role="combobox"]') && event.stopImmediatePropagation(),
    true,
  );
  const ballot = { KeyA: "arena-a", KeyB: "arena-b", KeyT: "arena-tie", KeyN: "arena-bad", KeyS: "arena-skip" };
  document.addEventListener(
    "keydown",
    (event) => {
      const inList = event.target.closest?.('[role="listbox"], [role="combobox"], [aria-expanded="true"]');
      let done = false;
      // Of buttons with the same key only those of the tab in sight are there to be pressed.
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) done = click("run") || click("arena-ask") || click("sql-run");
      else if (event.key === "Escape" && !inList) done = click("stop") || click("arena-stop");
      else if (event.altKey && ballot[event.code]) done = click(ballot[event.code]);
      else if (event.altKey && event.code === "KeyD") done = click("diff-toggle");
      else if (event.altKey && /^Digit[1-6]$/.test(event.code)) done = focusPane(Number(event.code[5]));
      if (done) event.preventDefault();
    },
    true,
  );
}
